// SPDX-License-Identifier: Apache-2.0
// PNG sequence: FOLDER (FOLDER/0000.png …) or a pattern such as out/frame_%04d.png. The settings are in the first picture.
#include "frame_folder.h"
#include "frame_sink.h"
#include "png.h"

namespace sla2::cli {

namespace {

class PngSink final : public FrameSink {
 public:
  explicit PngSink(const fs::path& target) : folder_(target) {}

  void begin(const ClipInfo& clip) override {
    encoder_ = std::make_unique<PngEncoder>(clip.width, clip.height);
    comment_ = clip.metadata;
  }

  void add(const Picture& picture) override {
    TempFile file(folder_.gathering(count_));
    file.write(encoder_->encode(picture, count_ == 0 ? comment_ : std::string()));
    file.commit();
    ++count_;
  }

  void finish() override { folder_.publish(count_); }

  [[nodiscard]] fs::path target() const override { return folder_.target(); }
  [[nodiscard]] std::string encoder() const override { return "png"; }
  [[nodiscard]] double least_bits_per_pixel() const override { return 1; }

 private:
  FrameFolder folder_;
  std::unique_ptr<PngEncoder> encoder_;
  std::string comment_;
  int count_ = 0;
};

}  // namespace

std::unique_ptr<FrameSink> make_png_sink(const fs::path& target) { return std::make_unique<PngSink>(target); }

}  // namespace sla2::cli
