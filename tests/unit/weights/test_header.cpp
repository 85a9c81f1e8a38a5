// SPDX-License-Identifier: Apache-2.0
// Every rule of the header has a file that breaks it alone.
#include "weights_fixture.h"

namespace sla2::weights::test {
namespace {

struct BadHeader {
  const char* rule;
  std::string header;
  uint64_t data_bytes;
  const char* says;  ///< a part of the text
};

std::string tensor(const std::string& shape, uint64_t begin, uint64_t end, const std::string& dtype = "F32") {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", dtype, shape, begin, end);
}
std::string one(const std::string& body) { return "{\"a\":" + body + "}"; }
std::string two(const std::string& a, const std::string& b) { return "{\"a\":" + a + ",\"b\":" + b + "}"; }

}  // namespace

TEST_CASE("a sound header is read in file order with its metadata") {
  std::map<std::string, std::string> metadata;
  const std::string header = R"({"__metadata__":{"format":"pt"},"b":)" + tensor("[2]", 4, 12) + R"(,"a":)" + tensor("[]", 0, 4) +
                             R"(,"empty":)" + tensor("[0,9223372036854775807,5]", 12, 12) + "}  ";
  const auto tensors = parse_header(header, 12, "x", &metadata);
  REQUIRE(tensors.size() == 3);
  CHECK(tensors[0].name == "a");
  CHECK(tensors[0].element_count() == 1);
  CHECK(tensors[1].name == "b");
  CHECK(tensors[1].shape == std::vector<int64_t>{2});
  CHECK(metadata == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(parse_header("{}", 0, "x", nullptr).empty());
}

TEST_CASE("each header rule is enforced with a text that says what is wrong") {
  const std::string ok = tensor("[1]", 0, 4);
  const std::vector<BadHeader> all{
      {"not an object", "[]", 0, "does not begin"},
      {"leading space", " {}", 0, "does not begin"},
      {"empty", "", 0, "does not begin"},
      {"broken JSON", "{\"a\":", 0, "not valid JSON"},
      {"text after the object", "{}x", 0, "not valid JSON"},
      {"two objects", "{}{}", 0, "not valid JSON"},
      {"tensor name twice", two(ok, tensor("[1]", 4, 8)).replace(0, 5, "{\"b\":"), 8, "appears twice"},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "appears twice"},
      {"metadata key twice", R"({"__metadata__":{"k":"1","k":"2"}})", 0, "appears twice"},
      {"metadata not text", R"({"__metadata__":{"k":1}})", 0, "a number where none belongs"},
      {"metadata nested", R"({"__metadata__":{"k":{}}})", 0, "an object where none belongs"},
      {"metadata not an object", R"({"__metadata__":"x"})", 0, "a string where none belongs"},
      {"tensor not an object", one("[1]"), 0, "an array where none belongs"},
      {"no dtype", one(R"({"shape":[1],"data_offsets":[0,4]})"), 4, "lacks dtype"},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,4]})"), 4, "lacks shape"},
      {"no offsets", one(R"({"dtype":"F32","shape":[1]})"), 4, "lacks data_offsets"},
      {"shape twice", one(R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})"), 4, "appears twice"},
      {"dtype twice", one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"), 4, "appears twice"},
      {"unknown dtype", one(tensor("[1]", 0, 4, "F33")), 4, "not a known element type"},
      {"unknown key", one(R"({"dtype":"F32","shape":[1],"extra":1,"data_offsets":[0,4]})"), 4, "a number where none belongs"},
      {"negative extent", one(tensor("[-1]", 0, 4)), 4, "a negative number"},
      {"fraction", one(tensor("[1.5]", 0, 4)), 4, "a fractional number"},
      {"null", one(tensor("[null]", 0, 4)), 4, "null"},
      {"boolean", one(tensor("[true]", 0, 4)), 4, "a boolean"},
      {"nine dimensions", one(tensor("[1,1,1,1,1,1,1,1,1]", 0, 4)), 4, "more than 8 dimensions"},
      {"extent beyond 2^63", one(tensor("[9223372036854775808]", 0, 4)), 4, "beyond 2^63"},
      {"number beyond 2^64", one(tensor("[18446744073709551616]", 0, 4)), 4, "a fractional number"},
      {"product overflows", one(tensor("[4294967296,4294967296,2]", 0, 0)), 0, "overflows"},
      {"three offsets", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})"), 4, "needs two numbers"},
      {"one offset", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"), 4, "needs two numbers"},
      {"end before begin", one(tensor("[1]", 4, 0)), 4, "before it begins"},
      {"size and shape differ", one(tensor("[2]", 0, 4)), 4, "takes 8 bytes"},
      {"beyond the data", one(tensor("[1]", 0, 4)), 3, "incomplete download"},
      {"gap", two(ok, tensor("[1]", 8, 12)), 12, "belong to nobody"},
      {"gap at the start", one(tensor("[1]", 4, 8)), 8, "belong to nobody"},
      {"overlap", two(ok, tensor("[2]", 0, 8)), 8, "overlap"},
      {"same bytes twice", two(ok, ok), 4, "overlap"},
      {"bytes left over", one(ok), 5, "1 bytes follow"},
      {"empty name", "{\"\":" + ok + "}", 4, "without a name"},
      {"control characters in a name", "{\"a\\n\":" + ok + "}", 4, "control characters"},
      {"name too long", "{\"" + std::string(1025, 'n') + "\":" + ok + "}", 4, "1025 bytes"},
      {"name is not UTF-8", "{\"\xff\":" + ok + "}", 4, "not valid JSON"},
      {"unpaired surrogate", "{\"\\ud800\":" + ok + "}", 4, "not valid JSON"},
      {"nested arrays", one(tensor("[[1]]", 0, 4)), 4, "an array where none belongs"},
      {"very deep nesting", one(std::string(100000, '[')), 0, "an array where none belongs"},
      {"deep objects", "{\"a\":{\"dtype\":{}}}", 0, "an object where none belongs"},
  };
  for (const BadHeader& bad : all) {
    INFO(bad.rule);
    std::string text;
    CHECK(status_of([&] { (void)parse_header(bad.header, bad.data_bytes, "file.x", nullptr); }, &text) == SLA2_E_FILE_FORMAT);
    INFO(text);
    CHECK(text.find(bad.says) != std::string::npos);
    CHECK(text.starts_with("file.x: "));
  }
}

TEST_CASE("an element type nobody computes with is named as unsupported") {
  CHECK(status_of([] { (void)parse_header(one(tensor("[1]", 0, 4, "U32")), 4, "x", nullptr); }) == SLA2_E_UNSUPPORTED);
}

TEST_CASE("a missing byte count is told") {
  std::string text;
  (void)status_of([] { (void)parse_header(one(tensor("[1425000000]", 0, 5700000000)), 3100000000, "x", nullptr); }, &text);
  CHECK(text.find("3.1 GB of data are there, the header promises 5.7 GB (2600000000 bytes missing)") != std::string::npos);
}

}  // namespace sla2::weights::test
