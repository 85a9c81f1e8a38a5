// SPDX-License-Identifier: Apache-2.0
#include "dump.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "fill.h"

namespace sla2::check {
namespace {

class Writer {
 public:
  explicit Writer(std::string folder) : folder_(std::move(folder)) { std::filesystem::create_directories(folder_); }

  /// `get(i)` is head i's part; absent (empty) parts are not written.
  template <typename Get>
  void write(const std::string& name, size_t heads, Get get) {
    const Table first = get(0);
    if (first.empty()) return;
    shapes_[name] = {heads, first.rows, first.cols};
    std::ofstream file(folder_ + "/" + name + ".f64", std::ios::binary);
    for (size_t i = 0; i < heads; ++i) {
      const Table part = get(i);
      file.write(reinterpret_cast<const char*>(part.data.data()),
                 static_cast<std::streamsize>(part.data.size() * sizeof(double)));
    }
    if (!file) throw std::runtime_error(folder_ + "/" + name + ".f64: cannot be written");
  }
  void finish(const Case& c) {
    nlohmann::json keys;
    for (const auto& [key, value] : items(c)) keys[key] = value;
    std::ofstream file(folder_ + "/manifest.json");
    file << nlohmann::json{{"case", keys}, {"arrays", shapes_}}.dump(1) << '\n';
    if (!file) throw std::runtime_error(folder_ + "/manifest.json: cannot be written");
  }

 private:
  std::string folder_;
  nlohmann::json shapes_;
};

Table line(const std::vector<double>& values) {
  Table x(values.empty() ? 0 : 1, static_cast<int64_t>(values.size()));
  x.data = values;
  return x;
}

}  // namespace

void dump_oracle(const Case& c, const std::string& folder) {
  const std::vector<Head> heads = make_heads(c);
  const std::vector<Table> d_out = make_d_out(c);
  std::vector<Selection> selections;
  std::vector<Output> outputs;
  std::vector<Gradients> gradients;
  for (size_t i = 0; i < heads.size(); ++i) {
    selections.push_back(select(c.problem, heads[i]));
    outputs.push_back(forward(c.problem, heads[i], selections[i], Arithmetic::kExact));
    gradients.push_back(backward(c.problem, heads[i], selections[i], d_out[i]));
  }
  Writer writer(folder);
  const auto head = [&](const char* name, Table Head::*part) {
    writer.write(name, heads.size(), [&](size_t i) { return heads[i].*part; });
  };
  head("q", &Head::q), head("k", &Head::k), head("v", &Head::v), head("w_q", &Head::w_q), head("w_k", &Head::w_k);
  head("proj", &Head::proj), head("gate", &Head::gate), head("given", &Head::given);
  writer.write("proj_bias", heads.size(), [&](size_t i) { return line(heads[i].proj_bias); });
  writer.write("key_bias", heads.size(), [&](size_t i) { return line(heads[i].key_bias); });
  writer.write("a", heads.size(), [&](size_t i) { return line(heads[i].a); });
  writer.write("d_out", heads.size(), [&](size_t i) { return d_out[i]; });
  writer.write("o", heads.size(), [&](size_t i) { return outputs[i].o; });
  writer.write("lse", heads.size(), [&](size_t i) { return line(outputs[i].lse); });
  writer.write("mask", heads.size(), [&](size_t i) { return selections[i].mask; });
  writer.write("scores", heads.size(), [&](size_t i) { return selections[i].scores; });
  const auto gradient = [&](const char* name, Table Gradients::*part) {
    writer.write(name, heads.size(), [&](size_t i) { return gradients[i].*part; });
  };
  gradient("d_q", &Gradients::q), gradient("d_k", &Gradients::k), gradient("d_v", &Gradients::v);
  gradient("d_w_q", &Gradients::w_q), gradient("d_w_k", &Gradients::w_k);
  gradient("d_proj", &Gradients::proj), gradient("d_gate", &Gradients::gate);
  writer.write("d_proj_bias", heads.size(), [&](size_t i) { return line(gradients[i].proj_bias); });
  writer.write("d_a", heads.size(), [&](size_t i) { return line(gradients[i].a); });
  writer.finish(c);
}

}  // namespace sla2::check
