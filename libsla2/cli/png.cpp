// SPDX-License-Identifier: Apache-2.0
// Chunk layout: PNG specification (third edition) §5.3: length, type, data, CRC of type and data; big-endian.
#include "png.h"

#include <cstring>
#include <span>

#include "errors.h"

extern "C" {
#include <libavutil/crc.h>
}

namespace sla2::cli {

namespace {

constexpr std::string_view kSignature{"\x89PNG\r\n\x1a\n", 8};
constexpr std::string_view kKeyword{"Comment\0", 8};  // the zero ends the keyword
constexpr size_t kChunkFrame = 12, kEndChunk = 12;    // length + type + CRC; IEND is empty

void put_u32(std::vector<uint8_t>* bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes->push_back(static_cast<uint8_t>(value >> shift));
}

uint32_t get_u32(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

std::vector<uint8_t> text_chunk(std::string_view comment) {
  std::vector<uint8_t> chunk;
  put_u32(&chunk, static_cast<uint32_t>(kKeyword.size() + comment.size()));
  for (const std::string_view part : {std::string_view("tEXt"), kKeyword, comment})
    chunk.insert(chunk.end(), part.begin(), part.end());
  const uint32_t crc = ~av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), ~0U, chunk.data() + 4, chunk.size() - 4);
  put_u32(&chunk, crc);
  return chunk;
}

}  // namespace

PngEncoder::PngEncoder(int width, int height) {
  const AVCodec* codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
  if (codec == nullptr) fail(SLA2_E_UNSUPPORTED, "this FFmpeg has no PNG encoder; write .mp4 or .webm");
  context_.reset(avcodec_alloc_context3(codec));
  require_memory(context_.get());
  context_->width = width;
  context_->height = height;
  context_->pix_fmt = AV_PIX_FMT_RGB24;
  context_->time_base = {1, 1};
  context_->thread_count = 1;
  const int result = avcodec_open2(context_.get(), codec, nullptr);
  if (result < 0) fail(SLA2_E_UNSUPPORTED, "the PNG encoder refuses {}x{}: {}", width, height, av_error_text(result));
  frame_ = make_frame(width, height, AV_PIX_FMT_RGB24);
  packet_ = make_packet();
}

std::vector<uint8_t> PngEncoder::encode(const Picture& picture, std::string_view comment) {
  if (av_frame_make_writable(frame_.get()) < 0) require_memory(nullptr);
  for (int row = 0; row < context_->height; ++row) {
    std::memcpy(frame_->data[0] + static_cast<ptrdiff_t>(row) * frame_->linesize[0], picture.rgb + row * picture.row_bytes,
                static_cast<size_t>(context_->width) * 3);
  }
  frame_->pts = 0;
  int result = avcodec_send_frame(context_.get(), frame_.get());
  if (result >= 0) result = avcodec_receive_packet(context_.get(), packet_.get());
  if (result < 0) fail(SLA2_E_INTERNAL, "the PNG encoder failed: {}", av_error_text(result));
  std::vector<uint8_t> file(packet_->data, packet_->data + packet_->size);
  av_packet_unref(packet_.get());
  if (!comment.empty()) {
    const std::vector<uint8_t> chunk = text_chunk(comment);
    file.insert(file.end() - kEndChunk, chunk.begin(), chunk.end());
  }
  return file;
}

std::string png_comment(std::string_view file) {
  if (!file.starts_with(kSignature)) return {};
  for (size_t at = kSignature.size(); file.size() - at >= kChunkFrame;) {
    const size_t length = get_u32(file.substr(at));
    if (length > file.size() - at - kChunkFrame) return {};
    const std::string_view type = file.substr(at + 4, 4), data = file.substr(at + 8, length);
    if (type == "tEXt" && data.starts_with(kKeyword)) return std::string(data.substr(kKeyword.size()));
    at += kChunkFrame + length;
  }
  return {};
}

}  // namespace sla2::cli
