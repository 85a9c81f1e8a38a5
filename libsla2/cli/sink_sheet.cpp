// SPDX-License-Identifier: Apache-2.0
// Contact sheet: evenly spaced frames, first and last among them, scaled into the cells of a grid. Holds the sheet alone.
#include <algorithm>
#include <cmath>

#include "errors.h"
#include "frame_sink.h"
#include "png.h"

namespace sla2::cli {

namespace {

constexpr int kMostCells = 12, kColumns = 4;
constexpr int kWidestCell = 320;  // pixels
constexpr int kGap = 4;           // pixels between cells
constexpr uint8_t kBackground = 24;

class SheetSink final : public FrameSink {
 public:
  explicit SheetSink(const fs::path& target) : file_(target) {}

  void begin(const ClipInfo& clip) override {
    frames_ = clip.frames;
    cells_ = std::min(frames_, kMostCells);
    columns_ = std::min(cells_, kColumns);
    const int rows = (cells_ + columns_ - 1) / columns_;
    cell_width_ = std::min(clip.width, kWidestCell);
    cell_height_ = std::max(1, static_cast<int>(std::lround(double(clip.height) * cell_width_ / clip.width)));
    width_ = columns_ * (cell_width_ + kGap) + kGap;
    height_ = rows * (cell_height_ + kGap) + kGap;
    sheet_.assign(static_cast<size_t>(width_) * height_ * 3, kBackground);  // [height, width, 3]
    scaler_ = std::make_unique<Scaler>(clip.width, clip.height, cell_width_, cell_height_, AV_PIX_FMT_RGB24);
    cell_ = make_frame(cell_width_, cell_height_, AV_PIX_FMT_RGB24);
    comment_ = clip.metadata;
  }

  void add(const Picture& picture) override {
    if (used_ < cells_ && seen_ == frame_of(used_)) {
      scaler_->convert(picture.rgb, picture.row_bytes, *cell_);
      const int left = kGap + used_ % columns_ * (cell_width_ + kGap), top = kGap + used_ / columns_ * (cell_height_ + kGap);
      for (int row = 0; row < cell_height_; ++row) {
        const uint8_t* from = cell_->data[0] + static_cast<ptrdiff_t>(row) * cell_->linesize[0];
        std::copy_n(from, cell_width_ * 3, sheet_.data() + (static_cast<ptrdiff_t>(top + row) * width_ + left) * 3);
      }
      ++used_;
    }
    ++seen_;
  }

  void finish() override {
    PngEncoder encoder(width_, height_);
    file_.write(encoder.encode({sheet_.data(), int64_t{width_} * 3}, comment_));
    file_.commit();
  }

  [[nodiscard]] fs::path target() const override { return file_.target(); }
  [[nodiscard]] std::string encoder() const override { return "png"; }

 private:
  /// Frame shown in a cell: the first in the first, the last in the last.
  [[nodiscard]] int frame_of(int cell) const {
    return cells_ == 1 ? 0 : static_cast<int>(std::lround(double(cell) * (frames_ - 1) / (cells_ - 1)));
  }

  TempFile file_;
  int frames_ = 0, cells_ = 0, columns_ = 0, cell_width_ = 0, cell_height_ = 0, width_ = 0, height_ = 0, seen_ = 0, used_ = 0;
  std::vector<uint8_t> sheet_;
  std::unique_ptr<Scaler> scaler_;
  Av<AVFrame> cell_;
  std::string comment_;
};

}  // namespace

std::unique_ptr<FrameSink> make_sheet_sink(const fs::path& target) { return std::make_unique<SheetSink>(target); }

}  // namespace sla2::cli
