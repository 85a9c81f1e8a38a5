// SPDX-License-Identifier: Apache-2.0
// libsentencepiece trusts the precompiled normaliser map of a model: a trie of 32-bit units followed by strings, walked
// without bounds. A damaged or hostile model would read outside of it, so every jump of the trie is checked here first.
// Formats: protobuf wire format; sentencepiece_model.proto (ModelProto); Darts-clone double arrays (unit layout).
#include "text/spiece_check.h"

#include <cstdint>
#include <cstring>
#include <optional>

#include "core/core.h"

namespace sla2::text {
namespace {

constexpr uint32_t kPiecesField = 1, kTrainerField = 2, kNormalizerField = 3, kSelfTestField = 4, kDenormalizerField = 5;
constexpr uint32_t kCharsMapField = 2;                         // NormalizerSpec.precompiled_charsmap
constexpr uint32_t kPieceTextField = 1, kPieceScoreField = 2;  // ModelProto.SentencePiece

enum class Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint32_t number;
  Wire wire;
  std::string_view bytes;  ///< of kBytes, kFixed32 and kFixed64
};

/// One pass over the fields of a message.
class Reader {
 public:
  Reader(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const uint64_t key = varint();
    Field field{static_cast<uint32_t>(key >> 3), static_cast<Wire>(key & 7), {}};
    SLA2_CHECK(field.number != 0 && (key >> 3) <= UINT32_MAX, SLA2_E_FILE_FORMAT,
               "{}: not a SentencePiece model: bad field number", where_);
    switch (field.wire) {
      case Wire::kVarint: varint(); break;
      case Wire::kFixed64: field.bytes = take(8); break;
      case Wire::kFixed32: field.bytes = take(4); break;
      case Wire::kBytes: field.bytes = take(varint()); break;
      default: fail(SLA2_E_FILE_FORMAT, "{}: not a SentencePiece model: unknown wire type {}", where_, key & 7);
    }
    return field;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      SLA2_CHECK(!rest_.empty(), SLA2_E_FILE_FORMAT, "{}: the SentencePiece model ends inside a number: truncated file?", where_);
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail(SLA2_E_FILE_FORMAT, "{}: not a SentencePiece model: a number of more than 64 bits", where_);
  }
  std::string_view take(uint64_t count) {
    SLA2_CHECK(count <= rest_.size(), SLA2_E_FILE_FORMAT,
               "{}: a field of the SentencePiece model promises {} bytes, {} are left: truncated file?", where_, count,
               rest_.size());
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
  const std::string& where_;
};

uint32_t unit_at(std::string_view trie, size_t index) {
  uint32_t unit = 0;  // little-endian in the file, as is every CPU this library runs on
  std::memcpy(&unit, trie.data() + index * sizeof(unit), sizeof(unit));
  return unit;
}

/// Units: bit 31 marks a value in the lower 31 bits; else bits 10.. << (bit 9 ? 8 : 0) are an offset that is XORed with the
/// index, bit 8 says that a value sits at the end of that offset, bits 0..7 are the label.
void check_trie(std::string_view trie, std::string_view strings, const std::string& where) {
  const size_t units = trie.size() / sizeof(uint32_t);
  const auto damaged = [&](const char* what, size_t index) {
    fail(SLA2_E_FILE_FORMAT, "{}: the normaliser of the SentencePiece model is damaged: {} at unit {} of {}", where, what, index,
         units);
  };
  for (size_t index = 0; index < units; ++index) {
    const uint32_t unit = unit_at(trie, index);
    if ((unit >> 31) != 0) continue;  // a value: never walked on from
    const size_t offset = static_cast<size_t>(unit >> 10) << ((unit & (1u << 9)) >> 6);
    const size_t target = index ^ offset;
    if ((target | 0xff) >= units) damaged("a jump outside of the trie", index);
    if ((unit & (1u << 8)) == 0) continue;
    const uint32_t value = unit_at(trie, target);
    if ((value >> 31) == 0 || (value & 0x7fffffffu) >= strings.size()) damaged("a string outside of the table", index);
  }
}

void check_chars_map(std::string_view map, const std::string& where) {
  if (map.empty()) return;  // the identity
  uint32_t trie_bytes = 0;
  SLA2_CHECK(map.size() > sizeof(trie_bytes), SLA2_E_FILE_FORMAT, "{}: the normaliser of the SentencePiece model is cut short",
             where);
  std::memcpy(&trie_bytes, map.data(), sizeof(trie_bytes));
  map.remove_prefix(sizeof(trie_bytes));
  SLA2_CHECK(trie_bytes < map.size() && trie_bytes % sizeof(uint32_t) == 0 && trie_bytes > 0, SLA2_E_FILE_FORMAT,
             "{}: the normaliser of the SentencePiece model promises a trie of {} bytes in {}", where, trie_bytes, map.size());
  const std::string_view strings = map.substr(trie_bytes);
  SLA2_CHECK(strings.back() == '\0', SLA2_E_FILE_FORMAT, "{}: the last string of the SentencePiece normaliser has no end", where);
  check_trie(map.substr(0, trie_bytes), strings, where);
}

void check_normalizer(std::string_view message, const std::string& where) {
  Reader reader(message, where);
  int maps = 0;
  while (const auto field = reader.next()) {
    if (field->number != kCharsMapField) continue;
    SLA2_CHECK(field->wire == Wire::kBytes && ++maps == 1, SLA2_E_FILE_FORMAT,
               "{}: the SentencePiece model has a malformed normaliser", where);
    check_chars_map(field->bytes, where);
  }
}

void check_piece(std::string_view message, const std::string& where) {
  Reader reader(message, where);
  bool named = false;
  while (const auto field = reader.next()) {
    named |= field->number == kPieceTextField && field->wire == Wire::kBytes && !field->bytes.empty();
    if (field->number != kPieceScoreField || field->wire != Wire::kFixed32) continue;
    float score = 0;
    std::memcpy(&score, field->bytes.data(), sizeof(score));
    SLA2_CHECK(score - score == 0.0f, SLA2_E_FILE_FORMAT, "{}: a piece of the SentencePiece model has a score that is no number",
               where);
  }
  SLA2_CHECK(named, SLA2_E_FILE_FORMAT, "{}: a piece of the SentencePiece model has no text", where);
}

}  // namespace

void check_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SLA2_CHECK(!bytes.empty() && bytes.size() <= kMaxModelBytes, SLA2_E_FILE_FORMAT,
             "{}: a SentencePiece model has 1 to {} bytes, this has {}", where, kMaxModelBytes, bytes.size());
  Reader reader(bytes, where);
  int pieces = 0, normalizers = 0, denormalizers = 0;
  while (const auto field = reader.next()) {
    const bool message = field->number <= kDenormalizerField;
    SLA2_CHECK(!message || field->wire == Wire::kBytes, SLA2_E_FILE_FORMAT,
               "{}: not a SentencePiece model: field {} is no message", where, field->number);
    if (field->number == kPiecesField) {
      check_piece(field->bytes, where);
      ++pieces;
    } else if (field->number == kNormalizerField) {
      check_normalizer(field->bytes, where);
      ++normalizers;
    } else if (field->number == kDenormalizerField) {
      check_normalizer(field->bytes, where);
      ++denormalizers;
    } else if (field->number == kTrainerField || field->number == kSelfTestField) {
      Reader inner(field->bytes, where);
      while (inner.next()) {
      }
    }
  }
  // Repeated singular messages would be merged by protobuf, past what was checked here.
  SLA2_CHECK(pieces > 0 && normalizers <= 1 && denormalizers <= 1, SLA2_E_FILE_FORMAT,
             "{}: not a usable SentencePiece model: {} pieces, {} normalisers, {} denormalisers", where, pieces, normalizers,
             denormalizers);
}

}  // namespace sla2::text
