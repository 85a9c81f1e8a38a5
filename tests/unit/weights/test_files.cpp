// SPDX-License-Identifier: Apache-2.0
// Files that are cut, flipped, shrinking or absent; and the writer.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <random>
#include <thread>

#include "weights_fixture.h"

namespace sla2::weights::test {
namespace {

const std::string kHeader = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                            R"("b":{"dtype":"U8","shape":[5],"data_offsets":[24,29]}})";

std::string sound_file() { return file_bytes(kHeader, std::string(29, 'x')); }

void read_all(const std::string& path) {
  const auto file = SafetensorsFile::open(path);
  for (const TensorInfo& tensor : file->tensors()) {
    std::vector<std::byte> bytes(tensor.end - tensor.begin);
    file->read_bytes(tensor, 0, bytes);
  }
}

}  // namespace

TEST_CASE("a file cut at any byte is refused, with its path in the text") {
  const Folder folder;
  const std::string path = folder / "cut.safetensors", whole = sound_file();
  write_bytes(path, whole);
  CHECK_NOTHROW(read_all(path));
  for (size_t size = 0; size < whole.size(); ++size) {
    write_bytes(path, whole.substr(0, size));
    std::string text;
    INFO(size);
    CHECK(status_of([&] { read_all(path); }, &text) == SLA2_E_FILE_FORMAT);
    CHECK(text.starts_with(path));
  }
  write_bytes(path, whole + "y");
  CHECK(status_of([&] { read_all(path); }) == SLA2_E_FILE_FORMAT);
}

TEST_CASE("no single flipped bit crashes; the ones in the length and the offsets are noticed") {
  const Folder folder;
  const std::string path = folder / "flip.safetensors", whole = sound_file();
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    write_bytes(path, bytes);
    const sla2_status status = status_of([&] { read_all(path); });
    INFO(bit);
    CHECK((status == SLA2_OK || status == SLA2_E_FILE_FORMAT || status == SLA2_E_UNSUPPORTED));
    if (bit < 64) CHECK(status == SLA2_E_FILE_FORMAT);
  }
}

TEST_CASE("a header length beyond the limit is refused before anything is allocated") {
  const Folder folder;
  const std::string path = folder / "long.safetensors";
  for (const uint64_t length : {uint64_t{100'000'001}, uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    write_bytes(path, bytes + kHeader);
    CHECK(status_of([&] { read_all(path); }) == SLA2_E_FILE_FORMAT);
  }
}

TEST_CASE("a file that shrinks while open gives FILE_READ, not a signal") {
  const Folder folder;
  const std::string path = folder / "shrink.safetensors";
  std::vector<float> numbers(1 << 20, 1.0F);
  const OutputTensor tensor{"a", DType::kF32, {1 << 20}, numbers.data()};
  write_safetensors(path, std::span(&tensor, 1));
  const auto checkpoint = Checkpoint::open(path);
  REQUIRE_NOTHROW(checkpoint->read_f32("a", {}, numbers));
  for (const off_t size : {off_t{1 << 20}, off_t{4096}, off_t{0}}) {
    REQUIRE(::truncate(path.c_str(), size) == 0);
    std::string text;
    CHECK(status_of([&] { checkpoint->read_f32("a", {}, numbers); }, &text) == SLA2_E_FILE_READ);
    CHECK(text.find("shrank") != std::string::npos);
    CHECK(text.find(path) != std::string::npos);
  }
}

TEST_CASE("missing files, folders and devices are told apart") {
  const Folder folder;
  CHECK(status_of([&] { (void)SafetensorsFile::open(folder / "none.safetensors"); }) == SLA2_E_FILE_NOT_FOUND);
  CHECK(status_of([&] { (void)SafetensorsFile::open(folder.path().string()); }) == SLA2_E_FILE_READ);
  CHECK(status_of([] { (void)SafetensorsFile::open("/dev/zero"); }) == SLA2_E_FILE_READ);
  const std::string pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(status_of([&] { (void)SafetensorsFile::open(pipe); }) == SLA2_E_FILE_READ);
  CHECK(status_of([&] { (void)Checkpoint::open(folder.path().string()); }) == SLA2_E_FILE_NOT_FOUND);
}

TEST_CASE("the writer's files come back as they were, aligned, for every element type") {
  const Folder folder;
  const std::string path = folder / "round.safetensors";
  std::mt19937 random(7);
  std::vector<unsigned char> bytes(8 * 30);
  for (auto& byte : bytes) byte = static_cast<unsigned char>(random());
  std::vector<OutputTensor> tensors;
  for (const DType dtype : {DType::kU8, DType::kF64, DType::kBF16, DType::kI8, DType::kF32, DType::kF16, DType::kI16, DType::kI32,
                            DType::kI64, DType::kBool, DType::kF8E4M3, DType::kF8E5M2}) {
    tensors.push_back({fmt::format("t.{}", dtype_name(dtype)), dtype, {5, 6}, bytes.data()});
  }
  tensors.push_back({"scalar", DType::kF32, {}, bytes.data()});
  tensors.push_back({"nothing", DType::kF32, {0, 3}, nullptr});
  tensors.push_back({"Größe \"x\"", DType::kU8, {1}, bytes.data()});
  write_safetensors(path, tensors, {{"k", "v\n\"1\""}, {"name", "Ä"}});

  const auto file = SafetensorsFile::open(path);
  REQUIRE(file->tensors().size() == tensors.size());
  CHECK(file->metadata() == std::map<std::string, std::string>{{"k", "v\n\"1\""}, {"name", "Ä"}});
  for (const OutputTensor& written : tensors) {
    const TensorInfo* info = file->find(written.name);
    REQUIRE(info != nullptr);
    CHECK(info->dtype == written.dtype);
    CHECK(info->shape == written.shape);
    std::vector<std::byte> read(info->end - info->begin);
    file->read_bytes(*info, 0, read);
    CHECK((read.empty() || std::memcmp(read.data(), bytes.data(), read.size()) == 0));
  }
  CHECK(file->header().size() % 8 == 0);
}

TEST_CASE("the writer replaces whole files and leaves nothing behind when it fails") {
  const Folder folder;
  const std::string path = folder / "out.safetensors";
  const std::array<float, 2> numbers{1, 2};
  const OutputTensor good{"a", DType::kF32, {2}, numbers.data()};
  write_safetensors(path, std::span(&good, 1));
  write_safetensors(path, std::span(&good, 1), {{"second", "yes"}});
  CHECK(SafetensorsFile::open(path)->metadata().contains("second"));

  const std::array<OutputTensor, 2> twice{good, good};
  CHECK(status_of([&] { write_safetensors(path, twice); }) == SLA2_E_ARGUMENT);
  CHECK(status_of([&] { write_safetensors(path, std::span(&good, 1), {{"k", "\xff"}}); }) == SLA2_E_ARGUMENT);
  CHECK(status_of([&] { write_safetensors(folder / "no/such/folder.safetensors", std::span(&good, 1)); }) == SLA2_E_FILE_WRITE);
  std::filesystem::create_directory(folder / "taken");
  CHECK(status_of([&] { write_safetensors(folder / "taken", std::span(&good, 1)); }) == SLA2_E_FILE_WRITE);
  CHECK(SafetensorsFile::open(path)->metadata().contains("second"));  // the good file survived
  const auto entries = std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator());
  CHECK(entries == 2);  // out.safetensors and taken: no temporary files
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  CHECK((status.st_mode & 0777) == (0666 & ~mask));
}

TEST_CASE("what a killed writer left is written over, or discarded unless somebody holds it") {
  const Folder folder;
  const std::string path = folder / "out.safetensors", partial = folder / ".out.safetensors.part";
  const std::array<float, 2> numbers{1, 2};
  const OutputTensor good{"a", DType::kF32, {2}, numbers.data()};
  std::ofstream(partial) << std::string(1 << 20, 'x');
  write_safetensors(path, std::span(&good, 1));
  CHECK(std::filesystem::file_size(path) < 1000);
  CHECK_FALSE(std::filesystem::exists(partial));

  std::ofstream(partial) << "x";
  const int writer = ::open(partial.c_str(), O_WRONLY);
  REQUIRE(::flock(writer, LOCK_EX) == 0);
  discard_partial(path);
  CHECK(std::filesystem::exists(partial));
  ::close(writer);
  discard_partial(path);
  CHECK_FALSE(std::filesystem::exists(partial));
  discard_partial(path);                         // nothing there
  discard_partial(folder / "no/such/folder.x");  // nor here
  CHECK(std::filesystem::exists(path));
}

TEST_CASE("writers of one file wait for each other") {
  const Folder folder;
  const std::string path = folder / "out.safetensors";
  const std::vector<float> numbers(10000, 1.0F);
  const auto write = [&](int writer) {
    const OutputTensor tensor{fmt::format("t{}", writer), DType::kF32, {10000}, numbers.data()};
    for (int i = 0; i < 20; ++i) write_safetensors(path, std::span(&tensor, 1));
  };
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) writers.emplace_back(write, i);
  for (std::thread& writer : writers) writer.join();
  CHECK(SafetensorsFile::open(path)->tensors().size() == 1);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator()) == 1);
}

}  // namespace sla2::weights::test
