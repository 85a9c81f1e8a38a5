// SPDX-License-Identifier: Apache-2.0
// Seconds from a checkpoint on disk to a model that can sample, beside a plain read of the same files into fresh memory.
// The first plain read warms the page cache and is not counted; then both take turns.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench_dit.h"
#include "dit/dit.h"
#include "weights/weights.h"

namespace sla2::probe {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double plain_read(const std::string& path) {
  const auto start = std::chrono::steady_clock::now();
  AlignedBuffer<std::byte> bytes(std::filesystem::file_size(path));
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  SLA2_CHECK(file >= 0, SLA2_E_ARGUMENT, "{}: cannot be opened", path);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = read(file, bytes.data() + done, bytes.size() - done);
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  close(file);
  SLA2_CHECK(done == bytes.size(), SLA2_E_ARGUMENT, "{}: {} of {} bytes read", path, done, bytes.size());
  return seconds_since(start);
}

double load(const std::string& path) {
  const auto start = std::chrono::steady_clock::now();
  const auto model = dit::Dit::load(weights::Checkpoint::open(path), {}, CancelToken(), {});
  return seconds_since(start);
}

void run(const std::string& path, int rounds) {
  plain_read(path);
  std::vector<double> reads, loads;
  for (int i = 0; i < rounds; ++i) {
    reads.push_back(plain_read(path));
    loads.push_back(load(path));
  }
  std::sort(reads.begin(), reads.end());
  std::sort(loads.begin(), loads.end());
  const size_t middle = reads.size() / 2;
  std::cout << nlohmann::json{{"bytes", std::filesystem::file_size(path)},
                              {"read_seconds", reads[middle]},
                              {"load_seconds", loads[middle]},
                              {"ratio", loads[middle] / reads[middle]},
                              {"threads", thread_count()},
                              {"isa", isa_name(active_isa())},
                              {"peak_bytes", peak_resident_bytes()}}
            << '\n';
}

}  // namespace

void add_load(CLI::App& app) {
  struct Arguments {
    std::string path;
    int rounds = 3;
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("load", "seconds until a checkpoint can sample, beside a plain read, as JSON");
  command->add_option("path", a->path, "one safetensors file")->required();
  command->add_option("--rounds", a->rounds);
  command->callback([a] { run(a->path, a->rounds); });
}

}  // namespace sla2::probe
