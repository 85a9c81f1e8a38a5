// SPDX-License-Identifier: Apache-2.0
// MP4 and WebM: RGB frames → YUV 4:2:0 BT.709 → the first encoder of the list that works → muxer → temporary file.
#include "encoders.h"
#include "errors.h"
#include "frame_sink.h"

namespace sla2::cli {

namespace {

class VideoSink final : public FrameSink {
 public:
  VideoSink(const fs::path& target, std::string container, int quality)
      : file_(target), output_(file_), container_(std::move(container)), quality_(quality) {
    std::string tried;
    for (const EncoderChoice& choice : encoder_list(container_)) {  // now, not after hours of sampling
      std::string why;
      if (encoder_works(choice, &why)) return;
      tried += fmt::format("\n  {}: {}", choice.name, why);
    }
    fail(SLA2_E_UNSUPPORTED, "no encoder for .{} works here; write a .gif or a folder of PNGs, or install FFmpeg with one of:{}",
         container_, tried);
  }

  void begin(const ClipInfo& clip) override {
    AVFormatContext* format = nullptr;
    const int allocated = avformat_alloc_output_context2(&format, nullptr, container_.c_str(), nullptr);
    format_.reset(format);
    if (allocated < 0) fail(SLA2_E_UNSUPPORTED, "this FFmpeg has no {} muxer", container_);
    format_->pb = output_.context();
    // To move the index to the front the MP4 muxer reads what it wrote, through a second handle that it opens by this name.
    format_->url = av_strdup(("file:" + file_.temporary().string()).c_str());
    require_memory(format_->url);
    format_->flags |= AVFMT_FLAG_BITEXACT;  // no writing time: the same frames give the same file
    av_dict_set(&format_->metadata, "title", clip.title.c_str(), 0);
    av_dict_set(&format_->metadata, "comment", clip.metadata.c_str(), 0);
    choose_encoder(clip);
    stream_ = avformat_new_stream(format_.get(), nullptr);
    require_memory(stream_);
    stream_->time_base = encoder_->time_base;
    stream_->avg_frame_rate = encoder_->framerate;
    if (avcodec_parameters_from_context(stream_->codecpar, encoder_.get()) < 0) require_memory(nullptr);
    AvOptions options;
    if (container_ == "mp4") options.set("movflags", "+faststart");  // players may start before the last byte
    output_.check(avformat_write_header(format_.get(), options.address()), "the header");
    scaler_ = std::make_unique<Scaler>(clip.width, clip.height, clip.width, clip.height, encoder_->pix_fmt);
    frame_ = make_frame(clip.width, clip.height, encoder_->pix_fmt);
    packet_ = make_packet();
  }

  void add(const Picture& picture) override {
    if (av_frame_make_writable(frame_.get()) < 0) require_memory(nullptr);
    scaler_->convert(picture.rgb, picture.row_bytes, *frame_);
    frame_->pts = next_++;
    frame_->quality = encoder_->global_quality;
    frame_->pict_type = AV_PICTURE_TYPE_NONE;
    encode(frame_.get());
  }

  void finish() override {
    encode(nullptr);
    output_.check(av_write_trailer(format_.get()), "the index");
    avio_flush(output_.context());
    output_.check(0, "the end");
    file_.commit();
  }

  [[nodiscard]] fs::path target() const override { return file_.target(); }
  [[nodiscard]] std::string encoder() const override { return name_; }
  [[nodiscard]] double least_bits_per_pixel() const override { return 0.02; }

 private:
  void choose_encoder(const ClipInfo& clip) {
    const bool global_header = (format_->oformat->flags & AVFMT_GLOBALHEADER) != 0;
    std::string tried;
    for (const EncoderChoice& choice : encoder_list(container_)) {
      std::string why;
      if (encoder_works(choice, &why)) {
        encoder_ = open_encoder(choice, clip.width, clip.height, clip.fps, quality_, global_header, &why);
        if (encoder_) {
          name_ = choice.name;
          return;
        }
      }
      tried += fmt::format("\n  {}: {}", choice.name, why);
    }
    fail(SLA2_E_UNSUPPORTED, "no encoder for .{} takes {}x{} at {} frames per second:{}", container_, clip.width, clip.height,
         clip.fps, tried);
  }

  void encode(const AVFrame* frame) {
    int result = avcodec_send_frame(encoder_.get(), frame);
    if (result < 0) fail(SLA2_E_FILE_WRITE, "encoder {} failed: {}", name_, av_error_text(result));
    for (;;) {
      result = avcodec_receive_packet(encoder_.get(), packet_.get());
      if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) return;
      if (result < 0) fail(SLA2_E_FILE_WRITE, "encoder {} failed: {}", name_, av_error_text(result));
      if (packet_->duration == 0) packet_->duration = 1;
      av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
      packet_->stream_index = stream_->index;
      output_.check(av_interleaved_write_frame(format_.get(), packet_.get()), "a frame");
    }
  }

  TempFile file_;
  AvOutput output_;
  std::string container_;
  int quality_;
  Av<AVFormatContext> format_;
  Av<AVCodecContext> encoder_;
  AVStream* stream_ = nullptr;  // owned by format_
  std::unique_ptr<Scaler> scaler_;
  Av<AVFrame> frame_;
  Av<AVPacket> packet_;
  std::string name_;
  int64_t next_ = 0;
};

}  // namespace

std::unique_ptr<FrameSink> make_video_sink(const fs::path& target, const std::string& container, int quality) {
  return std::make_unique<VideoSink>(target, container, quality);
}

}  // namespace sla2::cli
