// SPDX-License-Identifier: Apache-2.0
// GIF: each frame with its own 256 colours (palette.h) through libavcodec's gif encoder; the settings go into a comment
// extension (GIF89a §24), which libavformat reads but does not write.
#include <algorithm>
#include <cstring>
#include <span>

#include "encoders.h"
#include "errors.h"
#include "frame_sink.h"
#include "palette.h"

namespace sla2::cli {

namespace {

constexpr size_t kSubBlock = 255;  // GIF89a §15
constexpr uint8_t kExtension = 0x21, kCommentLabel = 0xfe, kTrailer = 0x3b;

std::vector<uint8_t> comment_and_trailer(std::string_view comment) {
  std::vector<uint8_t> bytes{kExtension, kCommentLabel};
  for (; !comment.empty(); comment.remove_prefix(std::min(kSubBlock, comment.size()))) {
    const std::string_view part = comment.substr(0, kSubBlock);
    bytes.push_back(static_cast<uint8_t>(part.size()));
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  bytes.push_back(0);
  bytes.push_back(kTrailer);
  return bytes;
}

class GifSink final : public FrameSink {
 public:
  explicit GifSink(const fs::path& target) : file_(target), output_(file_) {
    if (avcodec_find_encoder(AV_CODEC_ID_GIF) == nullptr)
      fail(SLA2_E_UNSUPPORTED, "this FFmpeg has no GIF encoder; write .mp4 or .webm");
  }

  void begin(const ClipInfo& clip) override {
    clip_ = clip;
    AVFormatContext* format = nullptr;
    const int allocated = avformat_alloc_output_context2(&format, nullptr, "gif", nullptr);
    format_.reset(format);
    if (allocated < 0) fail(SLA2_E_UNSUPPORTED, "this FFmpeg has no GIF muxer");
    format_->pb = output_.context();
    const AVCodec* codec = avcodec_find_encoder(AV_CODEC_ID_GIF);
    encoder_.reset(avcodec_alloc_context3(codec));
    require_memory(encoder_.get());
    encoder_->width = clip.width;
    encoder_->height = clip.height;
    encoder_->pix_fmt = AV_PIX_FMT_PAL8;
    encoder_->time_base = av_inv_q(frame_rate(clip.fps));
    encoder_->thread_count = 1;
    AvOptions options;
    options.set("gifflags", "0");  // whole frames: index differences mean nothing when each frame has its own palette
    const int opened = avcodec_open2(encoder_.get(), codec, options.address());
    if (opened < 0) fail(SLA2_E_UNSUPPORTED, "the GIF encoder refuses {}x{}: {}", clip.width, clip.height, av_error_text(opened));
    stream_ = avformat_new_stream(format_.get(), nullptr);
    require_memory(stream_);
    stream_->time_base = {1, 100};
    if (avcodec_parameters_from_context(stream_->codecpar, encoder_.get()) < 0) require_memory(nullptr);
    output_.check(avformat_write_header(format_.get(), nullptr), "the header");
    frame_ = make_frame(clip.width, clip.height, AV_PIX_FMT_PAL8);
    packet_ = make_packet();
  }

  void add(const Picture& picture) override {
    if (av_frame_make_writable(frame_.get()) < 0) require_memory(nullptr);
    Palette palette(picture, clip_.width, clip_.height);
    palette.map(picture, clip_.width, clip_.height, frame_->data[0], frame_->linesize[0]);
    std::memcpy(frame_->data[1], palette.colours().data(), sizeof palette.colours());
    frame_->pts = next_++;
    encode(frame_.get());
  }

  void finish() override {
    encode(nullptr);
    output_.check(av_write_trailer(format_.get()), "the end");
    avio_flush(output_.context());
    avio_seek(output_.context(), -1, SEEK_CUR);  // over the trailer byte, which follows the comment
    const std::vector<uint8_t> tail = comment_and_trailer(clip_.metadata);
    avio_write(output_.context(), tail.data(), static_cast<int>(tail.size()));
    avio_flush(output_.context());
    output_.check(0, "the comment");
    file_.commit();
  }

  [[nodiscard]] fs::path target() const override { return file_.target(); }
  [[nodiscard]] std::string encoder() const override { return "gif"; }
  [[nodiscard]] double least_bits_per_pixel() const override { return 0.5; }

 private:
  void encode(const AVFrame* frame) {
    int result = avcodec_send_frame(encoder_.get(), frame);
    if (result < 0) fail(SLA2_E_FILE_WRITE, "the GIF encoder failed: {}", av_error_text(result));
    while ((result = avcodec_receive_packet(encoder_.get(), packet_.get())) >= 0) {
      packet_->duration = 1;
      av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
      packet_->stream_index = stream_->index;
      output_.check(av_interleaved_write_frame(format_.get(), packet_.get()), "a frame");
    }
    if (result != AVERROR(EAGAIN) && result != AVERROR_EOF)
      fail(SLA2_E_FILE_WRITE, "the GIF encoder failed: {}", av_error_text(result));
  }

  TempFile file_;
  AvOutput output_;
  ClipInfo clip_;
  Av<AVFormatContext> format_;
  Av<AVCodecContext> encoder_;
  AVStream* stream_ = nullptr;  // owned by format_
  Av<AVFrame> frame_;
  Av<AVPacket> packet_;
  int64_t next_ = 0;
};

}  // namespace

std::unique_ptr<FrameSink> make_gif_sink(const fs::path& target) { return std::make_unique<GifSink>(target); }

}  // namespace sla2::cli
