// SPDX-License-Identifier: Apache-2.0
// The parameter table, values checked against it, presets with their lines.
#include <catch2/catch.hpp>
#include <clocale>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "config/params/params.h"

using namespace sla2;
using namespace sla2::config;
using Catch::Matchers::Contains;

namespace {

sla2_status status_of(const std::function<void()>& body, std::string* text = nullptr) {
  try {
    body();
  } catch (const Error& error) {
    if (text != nullptr) *text = error.what();
    return error.status();
  }
  return SLA2_OK;
}

std::string error_of_merge(std::string_view json) {
  ParamSet set;
  std::string text;
  REQUIRE(status_of([&] { set.merge_json(json, "file.json"); }, &text) == SLA2_E_ARGUMENT);
  REQUIRE(set.values().empty());  // nothing changes on failure
  return text;
}

}  // namespace

TEST_CASE("every row of the table is sound, and its default passes its own check") {
  std::set<std::string> names;
  for (const ParamRow& row : param_table()) {
    INFO(row.name);
    CHECK(names.insert(row.name).second);
    CHECK(std::string(row.help).back() == '.');
    CHECK((row.type == ParamType::kChoice) == (row.choices[0] != '\0'));
    const bool is_number = row.type == ParamType::kInt || row.type == ParamType::kFloat;
    if (is_number) CHECK(row.minimum < row.maximum);
    if (is_number || row.type == ParamType::kBool || row.type == ParamType::kChoice) {
      ParamSet set;
      CHECK(status_of([&] { set.set_text(row.name, row.default_text); }) == SLA2_OK);
      CHECK(set.text(row.name) == row.default_text);  // defaults are written canonically
    }
  }
}

TEST_CASE("values are checked and kept canonically") {
  ParamSet set;
  set.set_text("cfg_scale", " 5.50 ");
  CHECK(set.text("cfg_scale") == "5.5");
  CHECK(set.number("cfg_scale") == 5.5);
  set.set_text("sigmas", "1, 0.9,.5");
  CHECK(set.numbers("sigmas") == std::vector<double>{1, 0.9, 0.5});
  set.set_text("nan_retry", "off");
  CHECK_FALSE(set.flag("nan_retry"));
  set.set_text("prompt", "  two  spaces ");
  CHECK(set.text("prompt") == "  two  spaces ");
  CHECK(set.integer("steps") == 50);  // default
  CHECK_FALSE(set.is_set("steps"));
  set.unset("prompt");
  CHECK_FALSE(set.is_set("prompt"));
}

TEST_CASE("wrong values say what is right") {
  ParamSet set;
  std::string text;
  const auto refused = [&](const char* name, const char* value) {
    REQUIRE(status_of([&] { set.set_text(name, value); }, &text) == SLA2_E_ARGUMENT);
    return text;
  };
  CHECK_THAT(refused("stepz", "3"), Contains("did you mean \"steps\""));
  CHECK_THAT(refused("cfg-scale", "3"), Contains("cfg_scale"));
  CHECK_THAT(refused("steps", "0"), Contains("1 to 1000"));
  CHECK_THAT(refused("steps", "99999999999999999999"), Contains("whole number"));
  CHECK_THAT(refused("steps", "12x"), Contains("whole number"));
  CHECK_THAT(refused("steps", ""), Contains("whole number"));
  CHECK_THAT(refused("cfg_scale", "nan"), Contains("out of range"));
  CHECK_THAT(refused("cfg_scale", "inf"), Contains("out of range"));
  CHECK_THAT(refused("cfg_scale", "5,5"), Contains("not a number"));
  CHECK_THAT(refused("sampler", "uni_pc"), Contains("did you mean \"unipc\""));
  CHECK_THAT(refused("nan_retry", "maybe"), Contains("neither"));
  CHECK_THAT(refused("sigmas", "1,,0.5"), Contains("not a number"));
  CHECK_THAT(refused("sigmas", "2"), Contains("0 to 1"));
  CHECK(set.values().empty());
  refused(std::string(100000, 'x').c_str(), "1");  // a huge name costs no quadratic time
}

TEST_CASE("numbers do not depend on the locale") {
  const char* before = std::setlocale(LC_NUMERIC, nullptr);
  const std::string saved = before != nullptr ? before : "C";
  std::setlocale(LC_NUMERIC, "de_DE.UTF-8");
  ParamSet set;
  set.set_text("shift", "3.25");
  CHECK(set.number("shift") == 3.25);
  CHECK(number_text(0.1) == "0.1");
  std::setlocale(LC_NUMERIC, saved.c_str());
}

TEST_CASE("settings survive JSON, in types") {
  ParamSet set;
  set.set_text("prompt", "\"quoted\" \\ é \n");
  set.set_text("seed", "9007199254740991");
  set.set_text("shift", "0.1");
  set.set_text("sigmas", "1,0.9,0.30000000000000004");
  set.set_text("nan_retry", "false");
  set.set_text("block_q", "64");
  const std::string json = set.to_json();
  CHECK_THAT(json, Contains("9007199254740991") && Contains("false") && Contains("0.1"));
  ParamSet again;
  again.merge_json(json);
  CHECK(again.values() == set.values());
}

TEST_CASE("presets and bare objects") {
  ParamSet set;
  set.merge_json(R"({"steps": 7, "block_q": 32})");
  CHECK(set.integer("steps") == 7);
  set.merge_json(R"({"$schema": "./schema.json", "name": "a", "description": "b", "params": {"steps": 8, "sigmas": [1, 0.5]}})");
  CHECK(set.integer("steps") == 8);
  CHECK(set.numbers("sigmas").size() == 2);
  ParamSet defaults;
  defaults.set_text("steps", "3");
  defaults.set_text("shift", "3");
  set.fill_from(defaults);
  CHECK(set.integer("steps") == 8);
  CHECK(set.number("shift") == 3);
}

TEST_CASE("errors in presets say line and key") {
  CHECK_THAT(error_of_merge("{\n \"steps\": 5,\n \"stepz\": 5}"),
             Contains("file.json, line 3, key \"stepz\"") && Contains("steps"));
  CHECK_THAT(error_of_merge("{\n\n\"steps\":\n0}"), Contains("line 3") && Contains("1 to 1000"));
  CHECK_THAT(error_of_merge("{\"steps\": \"5\"}"), Contains("expected a number, got a text in quotes"));
  CHECK_THAT(error_of_merge("{\"prompt\": 5}"), Contains("expected a text in quotes, got a number"));
  CHECK_THAT(error_of_merge("{\"steps\": 5,\n\"steps\": 6}"), Contains("line 2") && Contains("twice"));
  CHECK_THAT(error_of_merge("{\n\"name\": \"x\",\n\"steps\": 3,\n\"params\": {}}"),
             Contains("line 3") && Contains("inside params"));
  CHECK_THAT(error_of_merge("{\n\"params\": {\"steps\": 3}}"), Contains("line 2, key \"name\"") && Contains("missing"));
  CHECK_THAT(error_of_merge("{\"name\": \"x\",\n\"params\": {}}"), Contains("line 2, key \"description\""));
  CHECK_THAT(error_of_merge("{\"name\": \"x\", \"description\": \"y\"}"), Contains("line 1, key \"name\"") && Contains("params"));
  CHECK_THAT(error_of_merge("{\"steps\": null}"), Contains("null"));
  CHECK_THAT(error_of_merge("{\"sigmas\": [[1]]}"), Contains("list inside a list"));
  CHECK_THAT(error_of_merge("{\"sigmas\": [1, \"x\"]}"), Contains("numbers only"));
  CHECK_THAT(error_of_merge("{\"prompt\": {}}"), Contains("object"));
  CHECK_THAT(error_of_merge("{\"steps\": 5,\n}"), Contains("line 2") && Contains("JSON"));
  CHECK_THAT(error_of_merge("[1]"), Contains("object"));
  CHECK_THAT(error_of_merge("3"), Contains("object"));
  CHECK_THAT(error_of_merge(""), Contains("JSON"));
  CHECK_THAT(error_of_merge(std::string("{\"prompt\": \"\xff\"}")), Contains("JSON"));
  CHECK_THAT(error_of_merge(std::string(2u << 20, ' ')), Contains("too large"));
  const std::string deep = std::string(100000, '[');
  CHECK_THAT(error_of_merge("{\"sigmas\": " + deep), Contains("list"));
}

TEST_CASE("every preset that ships is sound") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SLA2_SOURCE_DIR "/presets")) {
    if (entry.path().extension() != ".json" || entry.path().filename() == "schema.json") continue;
    std::ifstream file(entry.path());
    std::ostringstream text;
    text << file.rdbuf();
    ParamSet set;
    INFO(entry.path());
    std::string error;
    CHECK(status_of([&] { set.merge_json(text.str(), entry.path().filename().string()); }, &error) == SLA2_OK);
    CHECK(error.empty());
    CHECK_FALSE(set.values().empty());
    ++count;
  }
  CHECK(count >= 7);
}
