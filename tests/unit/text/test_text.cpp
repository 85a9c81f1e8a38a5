// SPDX-License-Identifier: Apache-2.0
// Tokenizer ids and encoder numbers are compared with other people's code in tests/python/test_text.py.
#include <catch2/catch.hpp>
#include <filesystem>

#include "text/text.h"

using namespace sla2;
using Catch::Contains;

TEST_CASE("UTF-8 is checked after Unicode table 3-7") {
  for (const char* good : {"", "abc", "\xc2\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(text::is_valid_utf8(good));
  }
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                          "\xf5", "\xff", "a\xe2\x82", "\xe2\x28\xa1"}) {
    CHECK_FALSE(text::is_valid_utf8(bad));
  }
}

TEST_CASE("cleaning never throws and always gives valid UTF-8 with single spaces") {
  CHECK(text::clean_prompt("") == "");
  CHECK(text::clean_prompt(" \t\r\n ") == "");
  CHECK(text::clean_prompt("a\xff"
                           "b\xe2\x82 c") == "a\ufffdb\ufffd c");
  CHECK(text::clean_prompt("\u201chi\u201d \uff21\uff22\u3000x") == "\"hi\" AB x");
  CHECK(text::clean_prompt("caf&eacute; e\u0301 &#x41;&#66") == "caf\u00e9 \u00e9 AB");
  CHECK(text::clean_prompt("<i>&amp;lt;</i>") == "<i><</i>");
  CHECK(text::clean_prompt(std::string_view("a\0b", 3)) == "ab");
  uint32_t state = 12345;
  for (int round = 0; round < 3000; ++round) {
    std::string noise;
    for (int i = 0; i < round % 40; ++i) {
      state = state * 1664525u + 1013904223u;
      noise += static_cast<char>((state >> 24) % 3 == 0 ? "&#x;<amp lt"[(state >> 16) % 11] : static_cast<char>(state >> 16));
    }
    const std::string clean = text::clean_prompt(noise);
    REQUIRE(text::is_valid_utf8(clean));
    REQUIRE(clean.find("  ") == std::string::npos);
  }
}

TEST_CASE("what is no SentencePiece model is refused with its place") {
  for (const std::string& bad : {std::string(), std::string("hello"), std::string("\x0a\x7f"), std::string(1000, '\xff'),
                                 std::string("\x0a\x05\x0a\x01\x61\x15\x00", 7)}) {
    CHECK_THROWS_WITH(text::Tokenizer::from_bytes(bad, "here.model"), Contains("here.model"));
  }
  CHECK_THROWS_WITH(text::Tokenizer::from_file("/no/such/spiece.model"), Contains("no such file"));
  CHECK_THROWS_AS(text::Tokenizer::from_file("/"), Error);
}

TEST_CASE("a model whose normaliser points outside of itself is refused") {
  const auto field = [](char key, const std::string& body) { return std::string{key, static_cast<char>(body.size())} + body; };
  const std::string piece = field('\x0a', field('\x0a', "a"));
  const auto model_with = [&](const std::string& map) { return piece + field('\x1a', field('\x12', map)); };
  // a trie of one unit whose offset leads far away, then the string table
  const std::string jump("\x04\x00\x00\x00\x00\xff\xff\x0f\x00", 9);
  CHECK_THROWS_WITH(text::Tokenizer::from_bytes(model_with(jump), "m"), Contains("outside of the trie"));
  const std::string endless("\x04\x00\x00\x00\x00\x00\x00\x00x", 9);
  CHECK_THROWS_WITH(text::Tokenizer::from_bytes(model_with(endless), "m"), Contains("has no end"));
  CHECK_THROWS_WITH(text::Tokenizer::from_bytes(model_with(std::string("\xff\xff\xff\x7f\x00", 5)), "m"),
                    Contains("promises a trie"));
}

TEST_CASE("the cache is silent about trouble") {
  text::Embedding embedding{1, 2, {1.0f, 2.0f}}, read;
  const text::EmbeddingCache off(""), impossible("/proc/no/such/folder");
  off.store("a", "d", embedding);
  CHECK_FALSE(off.load("a", "d", &read));
  impossible.store("a", "d", embedding);
  CHECK_FALSE(impossible.load("a", "d", &read));
  const auto folder = std::filesystem::path(SLA2_BINARY_DIR) / "test_embedding_cache";
  std::filesystem::remove_all(folder);
  const text::EmbeddingCache cache(folder.string());
  cache.store("a", "d", embedding);
  REQUIRE(cache.load("a", "d", &read));
  CHECK(read.rows == embedding.rows);
  CHECK_FALSE(cache.load("b", "d", &read));
  CHECK_FALSE(cache.load("a", "e", &read));
  std::filesystem::remove_all(folder);
}
