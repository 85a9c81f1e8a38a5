// SPDX-License-Identifier: Apache-2.0
// Scaled storage, rows, shards, folders, digests, lists of missing names.
#include <array>
#include <cmath>
#include <numeric>

#include "weights_fixture.h"

namespace sla2::weights::test {
namespace {

std::vector<std::byte> codes(size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i % 0x7e);  // no NaN
  return bytes;
}

}  // namespace

TEST_CASE("scaled fp8 is weight times scale; scales and markers are hidden") {
  const Folder folder;
  const std::string path = folder / "fp8.safetensors";
  constexpr int64_t kRows = 300, kColumns = 41;  // several chunks, no round numbers
  const auto stored = codes(kRows * kColumns);
  const float one = 0.375F;
  std::vector<float> per_row(kRows);
  std::iota(per_row.begin(), per_row.end(), 1.0F);
  const std::array<OutputTensor, 7> tensors{{{"a.weight", DType::kF8E4M3, {kRows, kColumns}, stored.data()},
                                             {"a.scale_weight", DType::kF32, {}, &one},
                                             {"a.scale_input", DType::kF32, {1}, &one},
                                             {"b.weight", DType::kF8E4M3, {kRows, kColumns}, stored.data()},
                                             {"b.weight_scale", DType::kF32, {kRows, 1}, per_row.data()},
                                             {"c.weight", DType::kF8E4M3, {kRows, kColumns}, stored.data()},
                                             {"scaled_fp8", DType::kF8E4M3, {2}, stored.data()}}};
  write_safetensors(path, tensors);
  const auto checkpoint = Checkpoint::open(path);
  CHECK(checkpoint->names() == std::vector<std::string>{"a.weight", "b.weight", "c.weight"});
  const std::array<int64_t, 2> shape{kRows, kColumns};
  std::vector<float> a(stored.size()), b(stored.size()), c(stored.size());
  checkpoint->read_f32("a.weight", shape, a);
  checkpoint->read_f32("b.weight", shape, b);
  checkpoint->read_f32("c.weight", shape, c);
  size_t wrong = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    const float plain = f8e4m3_to_f32(static_cast<uint8_t>(stored[i]));
    wrong += a[i] != plain * one || b[i] != plain * per_row[i / kColumns] || c[i] != plain;
  }
  CHECK(wrong == 0);

  std::vector<float> rows(3 * kColumns);
  checkpoint->read_rows_f32("b.weight", 290, 3, rows);
  CHECK(std::equal(rows.begin(), rows.end(), b.begin() + 290 * kColumns));
  CHECK(status_of([&] { checkpoint->read_rows_f32("b.weight", 298, 3, rows); }) == SLA2_E_ARGUMENT);
  CHECK(status_of([&] { checkpoint->read_rows_f32("b.weight", -1, 3, rows); }) == SLA2_E_ARGUMENT);

  std::vector<bf16_t> half(stored.size());
  checkpoint->read_bf16("b.weight", shape, half);
  wrong = 0;
  for (size_t i = 0; i < half.size(); ++i) wrong += half[i] != f32_to_bf16(b[i]);
  CHECK(wrong == 0);
}

TEST_CASE("storage this version cannot compute with is refused by name when read, not when opened") {
  const Folder folder;
  const auto stored = codes(256);
  const float one = 1, bad = NAN;
  const std::array<float, 4> blocks{1, 2, 3, 4};
  const std::array<OutputTensor, 8> tensors{{{"a.weight", DType::kF8E4M3, {16, 16}, stored.data()},
                                             {"a.weight_scale", DType::kF32, {2, 2}, blocks.data()},
                                             {"b.weight", DType::kU8, {16, 16}, stored.data()},
                                             {"b.weight_scale_2", DType::kF32, {}, &one},
                                             {"c.weight", DType::kI8, {16, 16}, stored.data()},
                                             {"c.weight_scale", DType::kF32, {}, &one},
                                             {"d.weight", DType::kF8E4M3, {16, 16}, stored.data()},
                                             {"d.weight_scale", DType::kF32, {}, &bad}}};
  write_safetensors(folder / "q.safetensors", tensors);
  const auto checkpoint = Checkpoint::open(folder / "q.safetensors");
  std::vector<float> numbers(256);
  for (const char* name : {"a.weight", "b.weight", "c.weight"}) {
    std::string text;
    CHECK(status_of([&] { checkpoint->read_f32(name, {}, numbers); }, &text) == SLA2_E_UNSUPPORTED);
    CHECK(text.find(name) != std::string::npos);
  }
  CHECK(status_of([&] { checkpoint->read_f32("d.weight", {}, numbers); }) == SLA2_E_FILE_FORMAT);
}

TEST_CASE("shapes are compared but for ones, and a missing tensor is named") {
  const Folder folder;
  const std::array<float, 6> numbers{1, 2, 3, 4, 5, 6};
  const OutputTensor tensor{"g", DType::kF32, {6, 1, 1}, numbers.data()};
  write_safetensors(folder / "s.safetensors", std::span(&tensor, 1));
  const auto checkpoint = Checkpoint::open(folder / "s.safetensors");
  std::array<float, 6> out{};
  CHECK_NOTHROW(checkpoint->read_f32("g", std::array<int64_t, 1>{6}, out));
  CHECK(out == numbers);
  CHECK(status_of([&] { checkpoint->read_f32("g", std::array<int64_t, 2>{2, 3}, out); }) == SLA2_E_MODEL_MISMATCH);
  std::string text;
  CHECK(status_of([&] { checkpoint->read_f32("h.weight", {}, out); }, &text) == SLA2_E_FILE_FORMAT);
  CHECK(text.find("'h.weight' is missing") != std::string::npos);

  std::vector<ExpectedTensor> expected{{"g", {6}}};
  CHECK_NOTHROW(check_tensors(*checkpoint, expected, "test net"));
  expected[0].shape = {5};
  for (int i = 0; i < 20; ++i) expected.push_back({fmt::format("layer.{}", i), {1}});
  expected.push_back({"optional", {1}, false});
  CHECK(status_of([&] { check_tensors(*checkpoint, expected, "test net"); }, &text) == SLA2_E_FILE_FORMAT);
  CHECK(text.find("missing (20): layer.0, layer.1") != std::string::npos);
  CHECK(text.find("layer.7 and 12 more") != std::string::npos);
  CHECK(text.find("of other shape (1): g [6, 1, 1] instead of [5]") != std::string::npos);
  CHECK(text.find("optional") == std::string::npos);
}

TEST_CASE("shards are found from the index, the folder or one shard; what is wrong with an index is told") {
  const Folder folder;
  const std::array<float, 2> numbers{1, 2};
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  const OutputTensor a{"a", DType::kF32, {2}, numbers.data()}, b{"b", DType::kF32, {2}, numbers.data()};
  const auto index = [&](const std::string& map) {
    write_bytes(folder / "model.safetensors.index.json", R"({"metadata":{},"weight_map":)" + map + "}");
  };
  write_safetensors(folder / first, std::span(&a, 1));
  write_safetensors(folder / second, std::span(&b, 1));
  index(R"({"a":")" + first + R"(","b":")" + second + "\"}");
  for (const std::string& path :
       {folder.path().string(), folder / "model.safetensors.index.json", folder / first, folder / second}) {
    CHECK(Checkpoint::open(path)->names() == std::vector<std::string>{"a", "b"});
  }
  const auto open = [&] { (void)Checkpoint::open(folder.path().string()); };
  std::string text;
  index(R"({"a":"../evil.safetensors"})");
  CHECK(status_of(open) == SLA2_E_FILE_FORMAT);
  index(R"({"a":"/etc/passwd"})");
  CHECK(status_of(open) == SLA2_E_FILE_FORMAT);
  index(R"({"a":3})");
  CHECK(status_of(open) == SLA2_E_FILE_FORMAT);
  index("[1]");
  CHECK(status_of(open) == SLA2_E_FILE_FORMAT);
  index(R"({"c":")" + first + "\"}");
  CHECK(status_of(open, &text) == SLA2_E_FILE_FORMAT);
  CHECK(text.find("'c'") != std::string::npos);
  index(R"({"a":"model-00003-of-00003.safetensors"})");
  CHECK(status_of(open, &text) == SLA2_E_FILE_NOT_FOUND);
  CHECK(text.find("model-00003-of-00003.safetensors") != std::string::npos);
}

TEST_CASE("the configuration comes from metadata, then from config.json; junk is ignored") {
  const Folder folder;
  const float number = 1;
  const OutputTensor tensor{"a", DType::kF32, {}, &number};
  const std::string path = folder / "m.safetensors";
  write_safetensors(path, std::span(&tensor, 1));
  CHECK(Checkpoint::open(path)->config_json().empty());
  write_bytes(folder / "config.json", "{\"eps\": 1}");
  CHECK(Checkpoint::open(path)->config_json() == "{\"eps\": 1}");
  write_bytes(folder / "config.json", "not json");
  CHECK(Checkpoint::open(path)->config_json().empty());
  write_safetensors(path, std::span(&tensor, 1), {{"config", "{\"dim\":2}"}});
  CHECK(Checkpoint::open(path)->config_json() == "{\"dim\":2}");
}

TEST_CASE("the digest follows the content and nothing else") {
  const Folder folder;
  std::vector<float> numbers(5'000'000, 0.5F);  // above the size that is hashed whole
  const OutputTensor tensor{"a", DType::kF32, {5'000'000}, numbers.data()};
  const auto digest = [&](const std::string& name) {
    write_safetensors(folder / name, std::span(&tensor, 1));
    return Checkpoint::open(folder / name)->digest();
  };
  const std::string before = digest("x.safetensors");
  CHECK(before.size() == 16);
  CHECK(digest("y.safetensors") == before);
  numbers.back() = 0.25F;
  CHECK(digest("x.safetensors") != before);
}

TEST_CASE("reading is the same for any number of threads") {
  const Folder folder;
  constexpr size_t kCount = 2'000'003;
  std::vector<bf16_t> stored(kCount);
  for (size_t i = 0; i < kCount; ++i) stored[i] = static_cast<bf16_t>((i * 2654435761U) >> 17);
  const OutputTensor tensor{"a", DType::kBF16, {kCount}, stored.data()};
  write_safetensors(folder / "t.safetensors", std::span(&tensor, 1));
  const auto checkpoint = Checkpoint::open(folder / "t.safetensors");
  std::vector<float> numbers(kCount), scalar(kCount);
  convert_to_f32(DType::kBF16, stored.data(), scalar.data(), kCount);
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    std::fill(numbers.begin(), numbers.end(), 0.0F);
    checkpoint->read_f32("a", {}, numbers);
    CHECK(std::memcmp(numbers.data(), scalar.data(), kCount * sizeof(float)) == 0);
    std::vector<bf16_t> copy(kCount);
    checkpoint->read_bf16("a", {}, copy);
    CHECK(copy == stored);
  }
  set_thread_count(0);
}

}  // namespace sla2::weights::test
