// SPDX-License-Identifier: Apache-2.0
// Weights, strips and threads of kernels/winograd.h.
//
// Order of the products. A strip of kStripTiles tiles is transformed once; then, for each panel of 48 output channels and each
// point, kDepth blocks of channels at a time, so that a piece of weights (27 KiB) stays in L1 while all tiles of the strip pass.
#include "kernels/winograd.h"

#include <algorithm>
#include <vector>

#include "core/core.h"

namespace sla2::kernels {

namespace {

constexpr int64_t kStripTiles = 64;
constexpr int64_t kPanelBlocks = kWinogradColumns / kWinogradBlock;
constexpr int64_t kDepth = 18;  // blocks of 16 channels of one piece of weights
constexpr int64_t kKernel = 3, kArea = kKernel * kKernel;
constexpr int64_t kLine = 64;  // bytes

/// G of the form, [points along one axis][3].
constexpr double kSameG[4][kKernel] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kDoubledG[3][kKernel] = {{1, 0, 0}, {1, 1, 1}, {0, 0, 1}};

const WinogradOps& ops() { return active_isa() >= Isa::kAvx512Bf16 ? winograd_avx512_bf16() : winograd_ref(); }

int64_t axis_points(WinogradForm form) { return form == WinogradForm::kSame ? 4 : 3; }
int64_t blocks_of(int64_t channels) { return (channels + kWinogradBlock - 1) / kWinogradBlock; }
int64_t whole_lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

/// Sizes of a convolution, and where things lie in a worker's scratch.
struct Layout {
  int64_t in_blocks, out_blocks, points, channels, depth;  // depth: channels of all frames
  explicit Layout(const WinogradGeometry& g)
      : in_blocks(blocks_of(g.in_channels)),
        out_blocks(blocks_of(g.out_channels)),
        points(axis_points(g.form) * axis_points(g.form)),
        channels(in_blocks * kWinogradBlock),
        depth(channels * g.frames) {}
  /// Elements of the weights before this panel: [point][depth/2][columns][2] each.
  [[nodiscard]] int64_t panel_offset(int64_t panel) const { return panel * kPanelBlocks * kWinogradBlock * depth * points; }
  [[nodiscard]] int64_t weight_elements() const { return out_blocks * kWinogradBlock * depth * points; }
  // Planes of points are one cache line apart modulo their size, so that they do not meet in the same sets of L1.
  [[nodiscard]] int64_t v_plane() const { return kStripTiles * depth + kLine / static_cast<int64_t>(sizeof(bf16_t)); }
  [[nodiscard]] static int64_t m_line() { return kWinogradColumns; }
  [[nodiscard]] static int64_t m_plane() { return kStripTiles * m_line() + kLine / static_cast<int64_t>(sizeof(float)); }
  [[nodiscard]] int64_t v_bytes() const { return whole_lines(points * v_plane() * static_cast<int64_t>(sizeof(bf16_t))); }
  [[nodiscard]] int64_t bytes() const {
    return v_bytes() + whole_lines(points * m_plane() * static_cast<int64_t>(sizeof(float)));
  }
};

/// Tiles of a frame in raster order.
struct TileCount {
  int64_t rows, columns;
  TileCount(WinogradForm form, int64_t height, int64_t width)
      : rows(form == WinogradForm::kSame ? (height + 1) / 2 : height),
        columns(form == WinogradForm::kSame ? (width + 1) / 2 : width) {}
  [[nodiscard]] int64_t strips() const { return (rows * columns + kStripTiles - 1) / kStripTiles; }
};

/// Call body(run, index of its first tile within the strip) for the pieces of tile rows that make up tiles [begin, end).
template <typename Body>
void for_each_run(const TileCount& tiles, int64_t height, int64_t width, int64_t begin, int64_t end, const Body& body) {
  for (int64_t tile = begin; tile < end;) {
    const int64_t row = tile / tiles.columns, first = tile % tiles.columns;
    const int64_t count = std::min(end - tile, tiles.columns - first);
    body(TileRun{height, width, row, first, count}, tile - begin);
    tile += count;
  }
}

}  // namespace

FrameShape WinogradGeometry::output(const FrameShape& input) const noexcept {
  const int64_t factor = form == WinogradForm::kDoubled ? 2 : 1;
  return {out_channels, input.height * factor, input.width * factor, kWinogradBlock};
}

struct PackedWinograd::Impl {
  WinogradGeometry geometry;
  Layout layout;
  AlignedBuffer<bf16_t> weights;
  AlignedBuffer<float> bias;  // [out blocks · 16], zero where there is no channel

  explicit Impl(const WinogradGeometry& g)
      : geometry(g),
        layout(g),
        weights(static_cast<size_t>(layout.weight_elements())),
        bias(static_cast<size_t>(layout.out_blocks * kWinogradBlock)) {}

  /// All points of output channel `out`.
  void transform(int64_t out, const float* source) {
    const bool same = geometry.form == WinogradForm::kSame;
    const int64_t axis = axis_points(geometry.form), panel = out / Layout::m_line(), column = out % Layout::m_line();
    const int64_t columns = std::min(kPanelBlocks, layout.out_blocks - panel * kPanelBlocks) * kWinogradBlock;
    bf16_t* const target = weights.data() + layout.panel_offset(panel) + 2 * column;
    for (int64_t k = 0; k < layout.depth; ++k) {
      const int64_t frame = k / layout.channels, channel = k % layout.channels;
      const bool exists = out < geometry.out_channels && channel < geometry.in_channels;
      const float* const g = source + ((out * geometry.in_channels + channel) * geometry.frames + frame) * kArea;
      double rows[4][kKernel] = {};  // G g
      for (int64_t i = 0; i < axis && exists; ++i)
        for (int64_t x = 0; x < kKernel; ++x)
          for (int64_t y = 0; y < kKernel; ++y) rows[i][x] += (same ? kSameG[i][y] : kDoubledG[i][y]) * g[y * kKernel + x];
      for (int64_t point = 0; point < layout.points; ++point) {
        double sum = 0.0;
        for (int64_t x = 0; x < kKernel; ++x)
          sum += rows[point / axis][x] * (same ? kSameG[point % axis][x] : kDoubledG[point % axis][x]);
        target[(point * layout.depth + k / 2 * 2) * columns + k % 2] = f32_to_bf16(static_cast<float>(sum));
      }
    }
  }
};

PackedWinograd::PackedWinograd(const WinogradGeometry& geometry, const float* weights, const float* bias) {
  auto impl = std::make_shared<Impl>(geometry);
  const int64_t columns = impl->layout.out_blocks * kWinogradBlock;
  parallel_for(columns, [&](int64_t out, int) { impl->transform(out, weights); });
  std::fill_n(impl->bias.data(), columns, 0.0F);
  std::copy_n(bias, geometry.out_channels, impl->bias.data());
  impl_ = std::move(impl);
}

const WinogradGeometry& PackedWinograd::geometry() const noexcept { return impl_->geometry; }
uint64_t PackedWinograd::bytes() const noexcept { return bytes_for(impl_->geometry); }

uint64_t PackedWinograd::bytes_for(const WinogradGeometry& geometry) noexcept {
  const Layout layout(geometry);
  return static_cast<uint64_t>(layout.weight_elements()) * sizeof(bf16_t) +
         static_cast<uint64_t>(layout.out_blocks * kWinogradBlock) * sizeof(float);
}

uint64_t PackedWinograd::scratch_bytes(const WinogradGeometry& geometry, int64_t height, int64_t width) {
  const int64_t workers = std::min<int64_t>(thread_count(), TileCount(geometry.form, height, width).strips());
  return static_cast<uint64_t>(workers * Layout(geometry).bytes());
}

void PackedWinograd::run(std::span<const bf16_t* const> sources, int64_t height, int64_t width, float* dst, bool accumulate,
                         std::byte* scratch) const {
  const Impl& impl = *impl_;
  const Layout& layout = impl.layout;
  const WinogradForm form = impl.geometry.form;
  const TileCount tiles(form, height, width);
  const FrameShape output = impl.geometry.output({impl.geometry.in_channels, height, width, kWinogradBlock});
  const int64_t used = static_cast<int64_t>(sources.size()) * layout.in_blocks;  // blocks of channels
  const int64_t skipped = impl.geometry.frames * layout.in_blocks - used, group = used * kWinogradRows * kWinogradBlock;
  parallel_for(tiles.strips(), [&](int64_t strip, int worker) {
    std::byte* const own = scratch + worker * layout.bytes();
    auto* const v = reinterpret_cast<bf16_t*>(own);
    auto* const m = reinterpret_cast<float*>(own + layout.v_bytes());
    const int64_t begin = strip * kStripTiles, end = std::min(begin + kStripTiles, tiles.rows * tiles.columns);
    const int64_t groups = (end - begin + kWinogradRows - 1) / kWinogradRows;  // what the last lacks is computed and not used
    for_each_run(tiles, height, width, begin, end, [&](const TileRun& run, int64_t at) {
      for (int64_t block = 0; block < used; ++block) {
        const int64_t frame = block / layout.in_blocks, plane = block % layout.in_blocks;
        ops().sources(form, run, sources[static_cast<size_t>(frame)] + plane * height * width * kWinogradBlock,
                      v + block * kWinogradRows * kWinogradBlock, layout.v_plane(), group, at);
      }
    });
    for (int64_t first = 0; first < layout.out_blocks; first += kPanelBlocks) {
      const int64_t blocks = std::min(kPanelBlocks, layout.out_blocks - first);
      const bf16_t* const panel = impl.weights.data() + layout.panel_offset(first / kPanelBlocks);
      for (int64_t point = 0; point < layout.points; ++point)
        for (int64_t k = 0; k < used; k += kDepth)
          ops().products(groups, std::min(kDepth, used - k), blocks,
                         v + point * layout.v_plane() + k * kWinogradRows * kWinogradBlock, group,
                         panel + (point * layout.depth + (skipped + k) * kWinogradBlock) * blocks * kWinogradBlock,
                         m + point * Layout::m_plane(), k > 0);
      for_each_run(tiles, height, width, begin, end, [&](const TileRun& run, int64_t at) {
        for (int64_t block = 0; block < blocks; ++block)
          ops().results(form, run, m + at * kWinogradColumns + block * kWinogradBlock, Layout::m_plane(),
                        impl.bias.data() + (first + block) * kWinogradBlock,
                        dst + (first + block) * output.pixels() * kWinogradBlock, accumulate);
      });
    }
  });
}

}  // namespace sla2::kernels
