// SPDX-License-Identifier: Apache-2.0
// The case language: what a line says comes back, and a mistake is named.
#include <catch2/catch.hpp>

#include "case.h"

using namespace sla2::check;

TEST_CASE("a line comes back as it was", "[cases]") {
  for (const char* const line :
       {"mode=full N=64 D=64",
        "mode=sla2 B=2 H=4 H_kv=2 N=100 N_kv=33 D=40 dtype=bf16 layout=padded block_q=32 sparsity=0.75 a=const",
        "mode=sla1 router=sparge dir=bwd N=7 D=64 scope=global negligible=0.1 rule=hybrid top_p=0.5 theta=0.6 fill=nan_k "
        "explain=why_not"})
    CHECK(to_line(parse_case(line, "here")) == line);
  const Case c = parse_case("N=10 smooth_k=0 protect_near=2", "here");
  CHECK(c.problem.keys == 10);
  CHECK_FALSE(c.problem.smooth_k);
  CHECK(c.problem.protect_near == 2);
}

TEST_CASE("mistakes are named by place, key, expected and got", "[cases]") {
  const auto says = [](const char* line, const char* text) {
    CHECK_THROWS_WITH(parse_case(line, "list.txt:7"), Catch::Contains(text));
  };
  says("mode=ful", "list.txt:7: key 'mode': expected one of full|sla2");
  says("mode=ful", "got 'ful'");
  says("N=ten", "key 'N': expected an integer from 0 to");
  says("N=12x", "got '12x'");
  says("sparsity=2.5", "expected a number from -1 to 2, got '2.5'");
  says("sparsity=nan", "key 'sparsity'");
  says("color=red", "key 'color' is unknown");
  says("N", "expected key=value, got 'N'");
  says("N=1 N=2", "key 'N': expected once");
  says("N=0", "key 'N': expected at least 1, got '0'");
  says("H=4 H_kv=3", "expected a divisor of H = 4");
  says("bits=12", "expected 16 or 8");
  says("N=200 N_kv=450 layout=fused",
       "list.txt:7: key 'layout': fused is one buffer [B,N,3,H,D] for q, k and v; expected N_kv = N");
  says("H=4 H_kv=2 layout=fused", "H = 4, H_kv = 2");
  says("dir=bwd layout=fused", "expected bhnd, bnhd or padded with dir=bwd");
  CHECK_NOTHROW(parse_case("H=4 layout=fused", ""));
  CHECK_NOTHROW(parse_case("N=0 expect=refused", ""));
}
