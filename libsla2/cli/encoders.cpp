// SPDX-License-Identifier: Apache-2.0
#include "encoders.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.h"
#include "frame_sink.h"

namespace sla2::cli {

namespace {

// x264 first: the best H.264 picture for its bytes, playable everywhere. Then any H.264, then H.265, then MPEG-4 part 2,
// which every FFmpeg has. Hardware encoders come after software: they open only where the device is.
const std::vector<EncoderChoice> kMp4{
    {"libx264", AV_PIX_FMT_YUV420P, "preset=medium:crf={crf}", 51, false, "H.264 in MP4, best quality"},
    {"libopenh264", AV_PIX_FMT_YUV420P, "", 51, false, "H.264 in MP4"},
    {"h264_nvenc", AV_PIX_FMT_YUV420P, "rc=vbr:cq={crf}", 51, false, "H.264 in MP4 on an NVIDIA GPU"},
    {"libx265", AV_PIX_FMT_YUV420P, "preset=medium:crf={crf}:x265-params=log-level=none", 51, false, "H.265 in MP4"},
    {"libsvtav1", AV_PIX_FMT_YUV420P, "crf={crf}:preset=8", 63, false, "AV1 in MP4"},
    {"mpeg4", AV_PIX_FMT_YUV420P, "", 31, true, "MPEG-4 part 2 in MP4, plays everywhere, larger files"},
};
const std::vector<EncoderChoice> kWebm{
    {"libvpx-vp9", AV_PIX_FMT_YUV420P, "crf={crf}:deadline=good:cpu-used=3:row-mt=1", 63, false, "VP9 in WebM"},
    {"libsvtav1", AV_PIX_FMT_YUV420P, "crf={crf}:preset=8", 63, false, "AV1 in WebM"},
    {"libaom-av1", AV_PIX_FMT_YUV420P, "crf={crf}:cpu-used=6:row-mt=1", 63, false, "AV1 in WebM, slow"},
    {"libvpx", AV_PIX_FMT_YUV420P, "crf={crf}:deadline=good:cpu-used=3", 63, false, "VP8 in WebM"},
};

constexpr int kEncoderThreads = 2;             // results do not depend on the machine's core count
constexpr double kFallbackBitsPerPixel = 0.2;  // bit rate of encoders that have no constant quality
constexpr int kKeyframeSeconds = 5;
constexpr int kDefaultProbeQuality = 30;
constexpr int kProbeSide = 256;  // hardware encoders refuse very small pictures

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

}  // namespace

const std::vector<EncoderChoice>& encoder_list(const std::string& container) { return container == "webm" ? kWebm : kMp4; }

AVRational frame_rate(double fps) {
  constexpr int kLargestDenominator = 1001;  // 30000/1001 stays exact
  return av_d2q(fps, kLargestDenominator * 1000);
}

Av<AVCodecContext> open_encoder(const EncoderChoice& choice, int width, int height, double fps, int quality, bool global_header,
                                std::string* why) {
  const AVCodec* codec = avcodec_find_encoder_by_name(choice.name);
  if (codec == nullptr) {
    *why = "not compiled into this FFmpeg";
    return nullptr;
  }
  Av<AVCodecContext> context(avcodec_alloc_context3(codec));
  require_memory(context.get());
  context->width = width;
  context->height = height;
  context->pix_fmt = choice.format;
  context->framerate = frame_rate(fps);
  context->time_base = av_inv_q(context->framerate);
  context->gop_size = std::max(1, static_cast<int>(std::lround(fps * kKeyframeSeconds)));
  context->color_range = AVCOL_RANGE_MPEG;
  context->colorspace = AVCOL_SPC_BT709;
  context->color_primaries = AVCOL_PRI_BT709;
  context->color_trc = AVCOL_TRC_BT709;
  context->sample_aspect_ratio = {1, 1};
  context->thread_count = kEncoderThreads;
  context->bit_rate = 0;
  if (global_header) context->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  const int own_quality = std::max(1, static_cast<int>(std::lround(double(quality) * choice.worst_quality / kWorstQuality)));
  if (choice.by_qscale) {
    context->flags |= AV_CODEC_FLAG_QSCALE;
    context->global_quality = FF_QP2LAMBDA * own_quality;
  } else if (std::strstr(choice.options, "{crf}") == nullptr) {
    context->bit_rate = static_cast<int64_t>(double(width) * height * fps * kFallbackBitsPerPixel);
  }
  // Of the encoders here only VP8 has no pure constant-quality mode: there CRF is the best quality a bit rate may reach.
  if (std::strcmp(choice.name, "libvpx") == 0) context->bit_rate = static_cast<int64_t>(double(width) * height * fps);
  AvOptions options;
  const std::string text = replaced(choice.options, "{crf}", std::to_string(own_quality));
  int result = av_dict_parse_string(options.address(), text.c_str(), "=", ":", 0);
  if (result >= 0) result = avcodec_open2(context.get(), codec, options.address());
  if (result < 0) {
    *why = av_error_text(result);
    return nullptr;
  }
  return context;
}

bool encoder_works(const EncoderChoice& choice, std::string* why) {
  Av<AVCodecContext> context = open_encoder(choice, kProbeSide, kProbeSide, 16, kDefaultProbeQuality, false, why);
  if (!context) return false;
  Av<AVFrame> frame = make_frame(kProbeSide, kProbeSide, choice.format);
  for (int plane = 0; plane < 3; ++plane) {
    const int rows = plane == 0 ? kProbeSide : kProbeSide / 2;
    std::memset(frame->data[plane], 128, static_cast<size_t>(frame->linesize[plane]) * rows);
  }
  frame->pts = 0;
  frame->quality = context->global_quality;
  Av<AVPacket> packet = make_packet();
  int result = avcodec_send_frame(context.get(), frame.get());
  if (result >= 0) result = avcodec_send_frame(context.get(), nullptr);
  if (result >= 0) result = avcodec_receive_packet(context.get(), packet.get());
  if (result < 0) *why = av_error_text(result);
  return result >= 0;
}

}  // namespace sla2::cli
