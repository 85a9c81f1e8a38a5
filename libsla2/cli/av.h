// SPDX-License-Identifier: Apache-2.0
// FFmpeg's objects with owners, its error numbers as text, and its output stream on top of a TempFile.
#pragma once
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/dict.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

#include <memory>
#include <string>

#include "files.h"

namespace sla2::cli {

struct AvFree {
  void operator()(AVFrame* frame) const noexcept { av_frame_free(&frame); }
  void operator()(AVPacket* packet) const noexcept { av_packet_free(&packet); }
  void operator()(AVCodecContext* context) const noexcept { avcodec_free_context(&context); }
  void operator()(AVFormatContext* context) const noexcept { avformat_free_context(context); }  // written ones; not the stream
  void operator()(SwsContext* context) const noexcept { sws_freeContext(context); }
};
template <typename T>
using Av = std::unique_ptr<T, AvFree>;

/// Owner of an AVDictionary.
class AvOptions {
 public:
  AvOptions() = default;
  ~AvOptions() { av_dict_free(&dictionary_); }
  AvOptions(const AvOptions&) = delete;
  AvOptions& operator=(const AvOptions&) = delete;
  void set(const char* key, const std::string& value) { av_dict_set(&dictionary_, key, value.c_str(), 0); }
  AVDictionary** address() noexcept { return &dictionary_; }

 private:
  AVDictionary* dictionary_ = nullptr;
};

std::string av_error_text(int error);
/// An allocation that must have worked; throws MEMORY.
void require_memory(const void* pointer);
Av<AVFrame> make_frame(int width, int height, AVPixelFormat format);
Av<AVPacket> make_packet();

/// AVIOContext that writes a TempFile and remembers the errno of a failed write, which libavformat would lose.
class AvOutput {
 public:
  explicit AvOutput(TempFile& file);
  ~AvOutput();
  AvOutput(const AvOutput&) = delete;
  AvOutput& operator=(const AvOutput&) = delete;
  [[nodiscard]] AVIOContext* context() const noexcept { return context_; }
  /// Throws FILE_WRITE with the system's reason if `result` or an earlier write failed.
  void check(int result, const char* what) const;

 private:
  friend struct AvOutputCalls;
  TempFile& file_;
  AVIOContext* context_ = nullptr;
  int write_errno_ = 0;
};

/// RGB24 pictures to another pixel format, BT.709 limited range where that is YUV.
class Scaler {
 public:
  Scaler(int width, int height, int out_width, int out_height, AVPixelFormat out_format);
  /// rgb: out of height rows of row_bytes, 3 bytes a pixel.
  void convert(const uint8_t* rgb, int64_t row_bytes, AVFrame& out);

 private:
  Av<SwsContext> context_;
  int height_;
};

}  // namespace sla2::cli
