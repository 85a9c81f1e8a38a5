// SPDX-License-Identifier: Apache-2.0
// PNG sequence: FOLDER (FOLDER/0000.png …) or a pattern such as out/frame_%04d.png. Frames gather in a temporary folder
// beside the target and move to their names when all are there.
#include <charconv>

#include "errors.h"
#include "frame_sink.h"
#include "png.h"

namespace sla2::cli {

namespace {

constexpr int kDefaultDigits = 4, kLargestDigits = 9;

/// "frame_%04d.png" cut into what stands before and behind the number.
struct NamePattern {
  std::string before, after;
  int digits = kDefaultDigits;
  [[nodiscard]] std::string name(int index) const { return fmt::format("{}{:0{}}{}", before, index, digits, after); }
};

NamePattern parse_pattern(const std::string& name) {
  const size_t percent = name.find('%'), letter = name.find('d', percent);
  const std::string width = letter == std::string::npos ? "" : name.substr(percent + 1, letter - percent - 1);
  NamePattern pattern;
  pattern.digits = 1;
  const char* begin = width.data();
  const auto [end, error] = std::from_chars(begin, begin + width.size(), pattern.digits);
  const bool plain = letter != std::string::npos && width.empty();
  const bool numbered =
      error == std::errc() && end == begin + width.size() && pattern.digits >= 1 && pattern.digits <= kLargestDigits;
  if ((!plain && !numbered) || name.find('%', percent + 1) != std::string::npos) {
    fail(SLA2_E_ARGUMENT, "output pattern \"{}\": expected one %d or %04d, as in frame_%04d.png", name);
  }
  pattern.before = name.substr(0, percent);
  pattern.after = name.substr(letter + 1);
  return pattern;
}

class PngSink final : public FrameSink {
 public:
  explicit PngSink(const fs::path& target) : target_(target) {
    const bool by_pattern = target.filename().string().find('%') != std::string::npos;
    pattern_ = by_pattern ? parse_pattern(target.filename().string()) : NamePattern{"", ".png"};
    fs::path named = target;
    if (named.filename().empty()) named = named.parent_path();  // "frames/" is "frames"
    folder_ = by_pattern ? target.parent_path() : named;
    stage_ = temporary_name(by_pattern ? folder_ / "frames" : named);
    if (fs::exists(folder_) && !fs::is_directory(folder_)) {
      fail(SLA2_E_FILE_WRITE, "cannot write {}: {} is a file, a folder is needed", target.string(), folder_.string());
    }
    std::error_code error;
    fs::remove_all(stage_, error);  // what a killed run left
    if (by_pattern && !folder_.empty()) fs::create_directories(folder_, error);
    if (!error) fs::create_directory(stage_, error);
    if (error) fail(SLA2_E_FILE_WRITE, "cannot write {}: {}", target.string(), errno_text(error.value()));
  }

  ~PngSink() override {
    std::error_code ignored;
    fs::remove_all(stage_, ignored);
  }

  void begin(const ClipInfo& clip) override {
    encoder_ = std::make_unique<PngEncoder>(clip.width, clip.height);
    comment_ = clip.metadata;
  }

  void add(const Picture& picture) override {
    TempFile file(stage_ / pattern_.name(count_));
    file.write(encoder_->encode(picture, count_ == 0 ? comment_ : std::string()));
    file.commit();
    ++count_;
  }

  void finish() override {
    std::error_code error;
    fs::create_directories(folder_.empty() ? fs::path(".") : folder_, error);
    for (int index = 0; index < count_ && !error; ++index)
      fs::rename(stage_ / pattern_.name(index), folder_ / pattern_.name(index), error);
    if (error) fail(SLA2_E_FILE_WRITE, "cannot write {}: {}", target_.string(), errno_text(error.value()));
    sync_folder(folder_);
  }

  [[nodiscard]] fs::path target() const override { return target_; }
  [[nodiscard]] std::string encoder() const override { return "png"; }

 private:
  fs::path target_, folder_, stage_;
  NamePattern pattern_;
  std::unique_ptr<PngEncoder> encoder_;
  std::string comment_;
  int count_ = 0;
};

}  // namespace

std::unique_ptr<FrameSink> make_png_sink(const fs::path& target) { return std::make_unique<PngSink>(target); }

}  // namespace sla2::cli
