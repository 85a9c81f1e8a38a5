// SPDX-License-Identifier: Apache-2.0
#include "serve_protocol.h"

#include <fmt/format.h>

#include <array>

namespace sla2::cli {

namespace {

using nlohmann::json;

struct MethodName {
  const char* name;
  Method method;
};
constexpr std::array kMethods{
    MethodName{"generate", Method::kGenerate}, MethodName{"resume", Method::kResume},     MethodName{"cancel", Method::kCancel},
    MethodName{"info", Method::kInfo},         MethodName{"presets", Method::kPresets},   MethodName{"params", Method::kParams},
    MethodName{"doctor", Method::kDoctor},     MethodName{"shutdown", Method::kShutdown},
};

std::string printable(const std::string& text) {
  constexpr size_t kShown = 60;
  return json(text.substr(0, kShown)).dump(-1, ' ', true, json::error_handler_t::replace);
}

bool is_id(const json& value) {
  if (value.is_string())
    return !value.get_ref<const std::string&>().empty() && value.get_ref<const std::string&>().size() <= kLongestId;
  return value.is_number_integer();
}

/// Reads named members of a request's "params", once each, and refuses what is left over.
class Members {
 public:
  explicit Members(const Request& request) : request_(request) {}

  [[noreturn]] void fail(const std::string& text) const { throw ProtocolError(request_.id, text); }

  const json* take(const char* name) {
    const auto found = request_.params.find(name);
    if (found == request_.params.end()) return nullptr;
    ++taken_;
    return found->is_null() ? nullptr : &*found;
  }
  std::string text(const char* name) {
    const json* value = take(name);
    if (value == nullptr) return {};
    if (!value->is_string()) fail(fmt::format("\"{}\" must be a text", name));
    return checked(value->get<std::string>(), name);
  }
  bool flag(const char* name, bool otherwise) {
    const json* value = take(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(fmt::format("\"{}\" must be true or false", name));
    return value->get<bool>();
  }
  std::optional<int64_t> integer(const char* name) {
    const json* value = take(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer()) fail(fmt::format("\"{}\" must be a whole number", name));
    if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) fail(fmt::format("\"{}\" is too large", name));
    return value->get<int64_t>();
  }
  std::vector<std::string> texts(const char* name) {
    const json* value = take(name);
    if (value == nullptr) return {};
    if (!value->is_array() || value->size() > kMostOutputs)
      fail(fmt::format("\"{}\" must be a list of at most {} texts", name, kMostOutputs));
    std::vector<std::string> all;
    for (const json& entry : *value) {
      if (!entry.is_string()) fail(fmt::format("\"{}\" must be a list of texts", name));
      all.push_back(checked(entry.get<std::string>(), name));
    }
    return all;
  }
  /// A text that C can hold.
  std::string checked(std::string value, const char* name) const {
    if (value.find('\0') != std::string::npos) fail(fmt::format("\"{}\" holds a zero character", name));
    return value;
  }
  void end() const {
    if (taken_ == request_.params.size()) return;
    fail("params holds a member this method does not know; docs/serve.md lists them");
  }

 private:
  const Request& request_;
  size_t taken_ = 0;
};

/// A parameter's value as sla2_params_set_text takes it.
std::string value_text(const Members& members, const std::string& name, const json& value) {
  if (value.is_string()) return members.checked(value.get<std::string>(), "params");
  if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
  if (value.is_number()) return value.dump();
  if (value.is_array()) {
    std::string list;
    for (const json& entry : value) {
      if (!entry.is_number()) members.fail(fmt::format("parameter {} must be a list of numbers", printable(name)));
      list += (list.empty() ? "" : ",") + entry.dump();
    }
    return list;
  }
  members.fail(fmt::format("parameter {} must be a text, a number, true, false or a list of numbers", printable(name)));
}

JobOrder output_members(Members* members) {
  JobOrder order;
  order.outputs = members->texts("outputs");
  order.sheet = members->text("sheet");
  order.report = members->text("report");
  order.quality = members->integer("quality");
  order.keep_checkpoint = members->flag("keep_checkpoint", false);
  order.previews = members->flag("previews", true);
  return order;
}

}  // namespace

void LineSplitter::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const std::string_view part = bytes.substr(0, end);
    if (!skipping_) {
      if (partial_.size() + part.size() > kLongestLine) {
        ready_.push_back({"", true});
        partial_.clear();
        skipping_ = true;
      } else {
        partial_ += part;
      }
    }
    if (end == std::string_view::npos) return;
    if (!skipping_) {
      if (partial_.ends_with('\r')) partial_.pop_back();
      if (!partial_.empty()) ready_.push_back({std::move(partial_), false});
      partial_.clear();
    }
    skipping_ = false;
    bytes.remove_prefix(end + 1);
  }
}

std::optional<LineSplitter::Line> LineSplitter::next() {
  if (taken_ == ready_.size()) {
    ready_.clear();
    taken_ = 0;
    return std::nullopt;
  }
  return std::move(ready_[taken_++]);
}

Request parse_request(std::string_view line) {
  if (line.size() > kLongestLine) throw ProtocolError(nullptr, fmt::format("a line may hold {} bytes", kLongestLine));
  const auto shallow = [](int depth, json::parse_event_t, json&) {
    if (depth > kDeepestNesting) throw ProtocolError(nullptr, fmt::format("a request nests at most {} levels", kDeepestNesting));
    return true;
  };
  json object;
  try {
    object = json::parse(line, shallow);
  } catch (const json::exception& error) {
    throw ProtocolError(nullptr, fmt::format("not JSON: {}", error.what()));
  }
  if (!object.is_object())
    throw ProtocolError(nullptr, "a request is an object: {\"id\": 1, \"method\": \"info\", \"params\": {…}}");
  Request request;
  const auto id = object.find("id");
  if (id == object.end() || !is_id(*id)) {
    throw ProtocolError(nullptr, fmt::format("\"id\" must be a whole number or a text of at most {} bytes", kLongestId));
  }
  request.id = *id;
  const auto method = object.find("method");
  if (method == object.end() || !method->is_string()) throw ProtocolError(request.id, "\"method\" must be a text");
  const auto& name = method->get_ref<const std::string&>();
  const MethodName* known = nullptr;
  for (const MethodName& row : kMethods) {
    if (name == row.name) known = &row;
  }
  if (known == nullptr) {
    throw ProtocolError(request.id,
                        fmt::format("unknown method {}; there are generate, resume, cancel, info, presets, params, doctor, "
                                    "shutdown",
                                    printable(name)));
  }
  request.method = known->method;
  if (const auto params = object.find("params"); params != object.end() && !params->is_null()) {
    if (!params->is_object()) throw ProtocolError(request.id, "\"params\" must be an object");
    request.params = *params;
  }
  return request;
}

JobOrder parse_generate(const Request& request) {
  Members members(request);
  JobOrder order = output_members(&members);
  order.preset = members.text("preset");
  order.from = members.text("from");
  if (const json* values = members.take("params")) {
    if (!values->is_object()) members.fail("\"params\" must be an object of parameter values");
    for (const auto& [name, value] : values->items()) {
      if (value.is_null()) continue;
      order.values.emplace_back(members.checked(name, "params"), value_text(members, name, value));
    }
  }
  members.end();
  return order;
}

JobOrder parse_resume(const Request& request) {
  Members members(request);
  JobOrder order = output_members(&members);
  order.checkpoint = members.text("checkpoint");
  order.model = members.text("model");
  order.pack = members.text("pack");
  order.lora = members.text("lora");
  order.threads = members.integer("threads");
  order.vae_tile = members.integer("vae_tile");
  order.vae_precision = members.text("vae_precision");
  members.end();
  if (order.checkpoint.empty()) members.fail("\"checkpoint\" is missing");
  return order;
}

json parse_cancel(const Request& request) {
  Members members(request);
  const json* job = members.take("job");
  if (job == nullptr || !is_id(*job)) members.fail("\"job\" must be the id of the request that started the job");
  members.end();
  return *job;
}

std::string parse_info(const Request& request) {
  Members members(request);
  std::string path = members.text("path");
  members.end();
  if (path.empty()) members.fail("\"path\" is missing");
  return path;
}

}  // namespace sla2::cli
