// SPDX-License-Identifier: Apache-2.0
// probe_text umt5 MODEL IN OUT            IN: "ids" (any number type) [n]; OUT: "rows" [n, d_model]
//            prompts MODEL OUT IN…        all INs at once; OUT: "rows.0", "rows.1" …; prints the bytes that were read meanwhile
//            tokens SPIECE MAX PROMPTS    PROMPTS: a JSON array of texts; prints a JSON array of {"ids", "dropped"}
//            clean PROMPTS                prints a JSON array of cleaned texts
//            cached MODEL SPIECE FOLDER PROMPT OUT   the whole road, through the embedding cache; prints "hit" or "miss"
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../probe_io.h"
#include "text/text.h"

namespace {

using namespace sla2;
using nlohmann::json;

json read_json(const char* path) { return json::parse(std::ifstream(path)); }

void umt5(char** argv) {
  const auto encoder = text::Umt5Encoder::create(weights::Checkpoint::open(argv[2]));
  const std::vector<float> numbers = probe::read_tensor(*weights::SafetensorsFile::open(argv[3]), "ids");
  const text::Embedding embedding = encoder->encode({numbers.begin(), numbers.end()}, {});
  probe::write_tensors(argv[4], {{"rows", {embedding.tokens, embedding.width}, embedding.rows}});
}

uint64_t bytes_read() {
  std::ifstream file("/proc/self/io");
  std::string key;
  uint64_t value = 0;
  while (file >> key >> value)
    if (key == "rchar:") return value;
  return 0;
}

void prompts(int argc, char** argv) {
  const auto encoder = text::Umt5Encoder::create(weights::Checkpoint::open(argv[2]));
  std::vector<std::vector<int32_t>> ids;
  for (int i = 4; i < argc; ++i) {
    const std::vector<float> numbers = probe::read_tensor(*weights::SafetensorsFile::open(argv[i]), "ids");
    ids.emplace_back(numbers.begin(), numbers.end());
  }
  std::vector<double> parts;
  const uint64_t before = bytes_read();
  const auto embeddings = encoder->encode_all(ids, {}, [&](double part) { parts.push_back(part); });
  const uint64_t read = bytes_read() - before;
  std::vector<probe::Tensor> tensors;
  for (size_t i = 0; i < embeddings.size(); ++i)
    tensors.push_back({"rows." + std::to_string(i), {embeddings[i].tokens, embeddings[i].width}, embeddings[i].rows});
  probe::write_tensors(argv[3], tensors);
  std::printf("%s\n", json{{"bytes", read}, {"parts", parts}}.dump().c_str());
}

void tokens(char** argv) {
  const auto tokenizer = text::Tokenizer::from_file(argv[2]);
  json out = json::array();
  for (const json& prompt : read_json(argv[4])) {
    int dropped = 0;
    const std::vector<int32_t> ids = tokenizer->encode(prompt.get<std::string>(), std::stoi(argv[3]), &dropped);
    out.push_back({{"ids", ids}, {"dropped", dropped}});
  }
  std::printf("%s\n", out.dump().c_str());
}

void clean(char** argv) {
  json out = json::array();
  for (const json& prompt : read_json(argv[2])) out.push_back(text::clean_prompt(prompt.get<std::string>()));
  std::printf("%s\n", out.dump().c_str());
}

void cached(char** argv) {
  const auto checkpoint = weights::Checkpoint::open(argv[2]);
  const std::string prompt = text::clean_prompt(argv[5]);
  const text::EmbeddingCache cache(argv[4]);
  text::Embedding embedding;
  const bool hit = cache.load(prompt, checkpoint->digest(), &embedding);
  if (!hit) {
    constexpr int kMaxTokens = 512;
    const auto tokenizer = text::Tokenizer::beside(*checkpoint, argv[3]);
    embedding = text::Umt5Encoder::create(checkpoint)->encode(tokenizer->encode(prompt, kMaxTokens, nullptr), {});
    cache.store(prompt, checkpoint->digest(), embedding);
  }
  probe::write_tensors(argv[6], {{"rows", {embedding.tokens, embedding.width}, embedding.rows}});
  std::puts(hit ? "hit" : "miss");
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "umt5" && argc == 5) {
    umt5(argv);
  } else if (command == "prompts" && argc >= 5) {
    prompts(argc, argv);
  } else if (command == "tokens" && argc == 5) {
    tokens(argv);
  } else if (command == "clean" && argc == 3) {
    clean(argv);
  } else if (command == "cached" && argc == 7) {
    cached(argv);
  } else {
    std::fputs("see the head of probe_text.cpp\n", stderr);
    return 2;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
