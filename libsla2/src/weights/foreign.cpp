// SPDX-License-Identifier: Apache-2.0
#include "weights/foreign.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <string_view>

#include "core/error.h"

namespace sla2::weights {
namespace {

struct Signature {
  std::string_view magic;
  std::string_view what;
};

using std::string_view_literals::operator""sv;

constexpr std::array<Signature, 15> kSignatures{{
    {"PK\x03\x04"sv,
     "a zip archive, most likely a PyTorch checkpoint (.pth, .pt, .ckpt): not read, because a pickle can run "
     "code; convert it with safetensors.torch.save_file(torch.load(path, weights_only=True), target)"},
    {"\x80\x02"sv,
     "a Python pickle (.pth, .pt, .ckpt): not read, because it can run code; convert it with "
     "safetensors.torch.save_file(torch.load(path, weights_only=True), target)"},
    {"GGUF"sv, "a GGUF file; this version reads safetensors only: download the safetensors edition of the model"},
    {"version https://git-lfs"sv, "a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file"},
    {"\x1f\x8b"sv, "a gzip archive: unpack it first"},
    {"7z\xbc\xaf"sv, "a 7-Zip archive: unpack it first"},
    {"Rar!"sv, "a RAR archive: unpack it first"},
    {"ustar"sv, "a tar archive: unpack it first"},
    {"\x89HDF"sv, "an HDF5 file (Keras): not a format of Wan models"},
    {"\x93NUMPY"sv, "a NumPy array: not a format of Wan models"},
    {"\x7f"
     "ELF"sv,
     "a program, not weights"},
    {"\x1a\x45\xdf\xa3"sv, "a video (WebM, Matroska)"},
    {"GIF8"sv, "a GIF picture"},
    {"\x89PNG"sv, "a PNG picture"},
    {"\xff\xd8\xff"sv, "a JPEG picture"},
}};

/// An MP4 says so after the length of its first box.
bool is_mp4(std::string_view text) { return text.size() >= 8 && text.substr(4, 4) == "ftyp"; }

/// A sentencepiece model is a protocol buffer whose first field is a piece: 0a LENGTH 0a LENGTH text 15 (its score).
bool is_sentencepiece(std::string_view text) {
  constexpr size_t kTextAt = 4, kOneByteLength = 0x80, kScore = 5;  // of a score: its tag and an fp32
  if (text.size() < kTextAt || text[0] != '\x0a' || text[2] != '\x0a') return false;
  const size_t outer = static_cast<unsigned char>(text[1]), inner = static_cast<unsigned char>(text[3]);
  if (outer >= kOneByteLength || outer < inner + 2 + kScore || kTextAt + inner >= text.size()) return false;
  return text[kTextAt + inner] == '\x15';
}

/// Nothing but text where a file of weights has its header's length: two of its bytes would be 0.
bool is_text(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == 0x7f || (byte < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f');
  });
}

}  // namespace

std::string describe_foreign(std::span<const std::byte> head, uint64_t file_bytes) {
  if (file_bytes == 0) return "an empty file: the download failed";
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  // A header of 640 bytes begins with 80 02 as a pickle does: a length that fits, with a JSON object behind it, wins.
  uint64_t length = 0;
  if (text.size() > sizeof(length) && text[sizeof(length)] == '{') {
    std::memcpy(&length, text.data(), sizeof(length));
    if (length <= file_bytes - sizeof(length)) return "";
  }
  for (const Signature& signature : kSignatures) {
    if (text.starts_with(signature.magic)) return std::string(signature.what);
  }
  if (is_mp4(text)) return "a video (MP4)";
  if (is_sentencepiece(text)) return std::string(kTokenizerText);
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
  const size_t first = lower.find_first_not_of(" \t\r\n\xef\xbb\xbf");
  const std::string_view body = first == std::string::npos ? std::string_view() : std::string_view(lower).substr(first);
  if (body.starts_with("<!doctype") || body.starts_with("<html") || body.starts_with("<?xml")) {
    return "a web page, most likely the error page of a failed download: fetch the file again";
  }
  // A safetensors file has its length first, so JSON at byte 0 is a configuration or an index.
  constexpr size_t kMinimum = 10;  // length and "{}"
  if (text.starts_with("{") && (text.size() < kMinimum || text[8] != '{')) return "a JSON text";
  if (file_bytes < kMinimum) return fmt::format("a file of {} bytes, too short for any safetensors file", file_bytes);
  if (is_text(text)) return "a text file";
  return "";
}

}  // namespace sla2::weights
