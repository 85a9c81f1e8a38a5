// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <algorithm>
#include <map>

#include "handles.h"

namespace sla2::cli {

namespace {

constexpr size_t kLongestDefault = 40;  // characters shown of a default text

// Letters are the tool's own; the table knows only long names.
const std::map<std::string, std::string> kShorthand{
    {"prompt", "-p,"}, {"model", "-m,"}, {"seed", "-s,"}, {"attention", "--mode,"}};

std::string dashed(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string type_name(const sla2_param_info& info) {
  switch (info.type) {
    case SLA2_PARAM_INT: return "INT";
    case SLA2_PARAM_FLOAT: return "NUMBER";
    case SLA2_PARAM_BOOL: return "true|false";
    case SLA2_PARAM_CHOICE: return info.choices;
    case SLA2_PARAM_PATH: return "PATH";
    case SLA2_PARAM_FLOAT_LIST: return "N,N,…";
    default: return "TEXT";
  }
}

/// First characters of a UTF-8 text, cut between characters.
std::string shortened(const std::string& text) {
  if (text.size() <= kLongestDefault) return text;
  size_t end = kLongestDefault;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

std::string description(const sla2_param_info& info) {
  std::string facts;
  if (info.type == SLA2_PARAM_INT || info.type == SLA2_PARAM_FLOAT) {
    facts = fmt::format("{:.16g} … {:.16g}", info.minimum, info.maximum);
    if (info.unit[0] != '\0') facts += fmt::format(" {}", info.unit);
  }
  if (info.default_text[0] != '\0') facts += fmt::format("{}default {}", facts.empty() ? "" : "; ", shortened(info.default_text));
  return facts.empty() ? std::string(info.help) : fmt::format("{} [{}]", info.help, facts);
}

void collect_names(const CLI::App& app, std::vector<std::string>* names) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names->push_back("--" + name);
  }
}

}  // namespace

void ParamFlags::add_to(CLI::App* app, const std::string& only_group) {
  for_each_param([&](const sla2_param_info& info) {
    if (!only_group.empty() && only_group != info.group) return;
    Flag& flag = flags_.emplace_back(Flag{info.name, "", nullptr});
    const auto letter = kShorthand.find(info.name);
    const std::string names = (letter == kShorthand.end() ? "" : letter->second) + "--" + dashed(info.name);
    flag.option = app->add_option(names, flag.value, description(info))->type_name(type_name(info));
    flag.option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);  // as with every tool: the last word counts
    flag.option->group(info.advanced != 0 ? fmt::format("{}, advanced", info.group) : std::string(info.group));
  });
}

std::vector<std::pair<std::string, std::string>> ParamFlags::given() const {
  std::vector<std::pair<std::string, std::string>> values;
  for (const Flag& flag : flags_) {
    if (flag.option->count() > 0) values.emplace_back(flag.name, flag.value);
  }
  return values;
}

void Verbosity::add_to(CLI::App* app) {
  app->add_flag("--json", json, "Events as JSON, one object per line, on standard output")->group("Messages");
  app->add_flag("-q,--quiet", quiet, "Errors only")->group("Messages");
  app->add_flag("-v,--verbose", verbose, "Also what the library logs")->group("Messages");
}

std::string usage_message(const CLI::App& app, const CLI::ParseError& error) {
  std::vector<const CLI::App*> path{&app};
  for (auto chosen = app.get_subcommands(); !chosen.empty(); chosen = path.back()->get_subcommands())
    path.push_back(chosen.front());
  std::string command;
  for (const CLI::App* part : path) command += (command.empty() ? "" : " ") + part->get_name();
  std::string text = error.what();
  const std::vector<std::string> extras = app.remaining(true);
  // A mistyped command arrives as "a subcommand is required", with the word left over.
  const bool unknown =
      dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr || dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (unknown && !extras.empty()) {
    const std::string word = extras.front().substr(0, extras.front().find('='));
    std::vector<std::string> names;
    if (word.starts_with("-")) {
      for (const CLI::App* part : path) collect_names(*part, &names);
    } else {
      for (const CLI::App* sub : path.back()->get_subcommands([](const CLI::App*) { return true; }))
        names.push_back(sub->get_name());
    }
    const std::string near = nearest(word, names);
    const char* kind = word.starts_with("-") ? "flag" : "argument";
    text = fmt::format("unknown {} {}{}", kind, word, near.empty() ? "" : "; did you mean " + near + "?");
  }
  return fmt::format("{}\n`{} --help` lists what there is", text, command);
}

}  // namespace sla2::cli
