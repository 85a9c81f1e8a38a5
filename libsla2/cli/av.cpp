// SPDX-License-Identifier: Apache-2.0
#include "av.h"

#include <unistd.h>

#include <array>
#include <cerrno>

#include "errors.h"

namespace sla2::cli {

namespace {

constexpr int kIoBuffer = 1 << 16;

}  // namespace

// libavformat 61 made the buffer const.
#if LIBAVFORMAT_VERSION_MAJOR >= 61
using WriteBuffer = const uint8_t*;
#else
using WriteBuffer = uint8_t*;
#endif

struct AvOutputCalls {
  static int write(void* opaque, WriteBuffer data, int size) {
    auto& output = *static_cast<AvOutput*>(opaque);
    int left = size;
    while (left > 0) {
      const ssize_t done = ::write(output.file_.descriptor(), data, static_cast<size_t>(left));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) {
        output.write_errno_ = errno;
        return AVERROR(errno);
      }
      data += done;
      left -= static_cast<int>(done);
    }
    return size;
  }
  static int read(void* opaque, uint8_t* data, int size) {
    const ssize_t got = ::read(static_cast<AvOutput*>(opaque)->file_.descriptor(), data, static_cast<size_t>(size));
    if (got == 0) return AVERROR_EOF;
    return got < 0 ? AVERROR(errno) : static_cast<int>(got);
  }
  static int64_t seek(void* opaque, int64_t offset, int whence) {
    const int descriptor = static_cast<AvOutput*>(opaque)->file_.descriptor();
    if ((whence & AVSEEK_SIZE) != 0) {
      const off_t here = ::lseek(descriptor, 0, SEEK_CUR), end = ::lseek(descriptor, 0, SEEK_END);
      ::lseek(descriptor, here, SEEK_SET);
      return end;
    }
    const off_t at = ::lseek(descriptor, offset, whence & ~AVSEEK_FORCE);
    return at < 0 ? AVERROR(errno) : at;
  }
};

std::string av_error_text(int error) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> text{};
  av_strerror(error, text.data(), text.size());
  return text.data();
}

void require_memory(const void* pointer) {
  if (pointer == nullptr) fail(SLA2_E_MEMORY, "out of memory while encoding; close other programs or make the clip smaller");
}

Av<AVFrame> make_frame(int width, int height, AVPixelFormat format) {
  Av<AVFrame> frame(av_frame_alloc());
  require_memory(frame.get());
  frame->width = width;
  frame->height = height;
  frame->format = format;
  if (av_frame_get_buffer(frame.get(), 0) < 0) require_memory(nullptr);
  return frame;
}

Av<AVPacket> make_packet() {
  Av<AVPacket> packet(av_packet_alloc());
  require_memory(packet.get());
  return packet;
}

AvOutput::AvOutput(TempFile& file) : file_(file) {
  auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBuffer));
  require_memory(buffer);
  context_ = avio_alloc_context(buffer, kIoBuffer, 1, this, AvOutputCalls::read, AvOutputCalls::write, AvOutputCalls::seek);
  if (context_ == nullptr) av_free(buffer);
  require_memory(context_);
}

AvOutput::~AvOutput() {
  av_freep(&context_->buffer);
  avio_context_free(&context_);
}

void AvOutput::check(int result, const char* what) const {
  const int error = write_errno_ != 0 ? write_errno_ : (context_->error < 0 ? EIO : 0);
  if (error != 0) fail(status_of_errno(error, true), "cannot write {}: {}", file_.target().string(), errno_text(error));
  if (result < 0) fail(SLA2_E_FILE_WRITE, "cannot write {}: {} failed: {}", file_.target().string(), what, av_error_text(result));
}

Scaler::Scaler(int width, int height, int out_width, int out_height, AVPixelFormat out_format) : height_(height) {
  const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
  context_.reset(
      sws_getContext(width, height, AV_PIX_FMT_RGB24, out_width, out_height, out_format, flags, nullptr, nullptr, nullptr));
  require_memory(context_.get());
  const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
  constexpr int kFullRange = 1, kLimitedRange = 0, kUnit = 1 << 16;  // 16.16 fixed point
  // RGB to RGB has no matrix; swscale says so by a negative result, which is fine.
  sws_setColorspaceDetails(context_.get(), bt709, kFullRange, bt709, kLimitedRange, 0, kUnit, kUnit);
}

void Scaler::convert(const uint8_t* rgb, int64_t row_bytes, AVFrame& out) {
  const uint8_t* const planes[] = {rgb, nullptr, nullptr, nullptr};
  const int strides[] = {static_cast<int>(row_bytes), 0, 0, 0};
  if (sws_scale(context_.get(), planes, strides, 0, height_, out.data, out.linesize) <= 0) {
    fail(SLA2_E_INTERNAL, "the picture could not be converted for the encoder");
  }
}

}  // namespace sla2::cli
