// SPDX-License-Identifier: Apache-2.0
// The one parameter table. Command line flags, presets, their schema, widgets and keywords are made from these rows;
// nothing else in the project may repeat a range or a default.
#include <array>

#include "config/params/params.h"

namespace sla2::config {

namespace {

constexpr auto kInt = ParamType::kInt;
constexpr auto kFloat = ParamType::kFloat;
constexpr auto kBool = ParamType::kBool;
constexpr auto kString = ParamType::kString;
constexpr auto kChoice = ParamType::kChoice;
constexpr auto kPath = ParamType::kPath;
constexpr auto kFloatList = ParamType::kFloatList;

// clang-format off: a sentence and a table, one row each.
// Wan2.1's own default negative prompt (wan/configs/shared_config.py), a constant of the trained model.
constexpr const char* kWanNegative =
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残"
    "缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，"
    "背景人很多，倒着走";

constexpr double kMaxSeed = 9007199254740991.0;  // 2^53 - 1: the largest run of integers every front end can hold exactly
constexpr double kMaxSide = 8192;                // pixels; 512 rotary positions a side, half of the trained table
constexpr double kMaxFrames = 1021;              // 256 latent frames
constexpr double kMaxTokens = 2147483647;        // of one token order
constexpr double kMostProtected = 65535;         // key blocks: 4 million tokens of 64
constexpr double kMaxMemoryMb = 16.0 * 1024 * 1024;

// name, type, group, help, unit, choices, default, min, max, step, advanced
constexpr ParamRow kTable[] = {
    {"prompt", kString, "Prompt", "What the clip shows.", "", "", "", 0, 0, 0, false},
    {"negative_prompt", kString, "Prompt", "What the clip should not show; used when cfg_scale is not 1.", "", "", kWanNegative,
     0, 0, 0, false},

    {"width", kInt, "Video", "Width of the clip, a multiple of 16.", "px", "", "832", 16, kMaxSide, 16, false},
    {"height", kInt, "Video", "Height of the clip, a multiple of 16.", "px", "", "480", 16, kMaxSide, 16, false},
    {"frames", kInt, "Video", "Number of frames, of the form 4k+1.", "frames", "", "81", 1, kMaxFrames, 4, false},
    {"fps", kFloat, "Video", "Frames per second of the written clip.", "1/s", "", "16", 1, 240, 0, false},

    {"steps", kInt, "Sampling", "Denoising steps: more is slower and cleaner.", "", "", "50", 1, 1000, 1, false},
    {"sampler", kChoice, "Sampling", "Solver that turns velocities into the clip.", "", "euler|unipc|dpmpp_2m|rcm", "unipc", 0, 0,
     0, false},
    {"schedule", kChoice, "Sampling", "Grid of noise levels; auto takes the one made for the sampler.", "",
     "auto|wan_unipc|wan_dpm|linear|diffusers_unipc|diffusers_dpm|diffusers_euler|lightx2v_4step|rcm|rcm_i2v", "auto", 0, 0, 0,
     true},
    {"sigmas", kFloatList, "Sampling",
     "Explicit noise levels, strictly decreasing, as 1,0.9,0.5; overrides schedule, steps and shift.", "", "", "", 0, 1, 0, true},
    {"shift", kFloat, "Sampling", "Spends more steps at high noise; 3 suits 480p, 5 suits 720p.", "", "", "5", 0.01, 100, 0,
     false},
    {"cfg_scale", kFloat, "Sampling", "How strongly the prompt steers; 1 turns guidance off and halves the time.", "", "", "5", 0,
     30, 0, false},
    {"seed", kInt, "Sampling", "The same seed and settings give the same clip.", "", "", "0", 0, kMaxSeed, 1, false},

    {"attention", kChoice, "Attention",
     "full: every key; sla2: the strongest key blocks exactly, the rest linearly; others: see docs/numerics.md. Where sparsity "
     "is "
     "given and this is not: sla2.",
     "", "full|sla2|sla1|sparse_only|linear_only|l_plus_s|pooled", "full", 0, 0, 0, false},
    {"sparsity", kFloat, "Attention",
     "Fraction of key blocks skipped where attention is not full; given alone it means attention sla2.", "", "", "0.9", 0, 1,
     0.01, false},
    {"bits", kChoice, "Attention", "8: queries and keys are multiplied as bytes, values in bf16.", "", "16|8", "16", 0, 0, 0,
     false},
    {"attention_schedule", kString, "Attention",
     "Rules by layer and step, the last that fits decides: \"sla2@0.9; layers 0,-1: full; steps 0-20%: full\".", "", "", "", 0, 0,
     0, true},
    {"token_order", kChoice, "Attention",
     "Order of tokens in the sparse layers: tiles (4x4x4) and hilbert make key blocks compact in space and time; not for weights "
     "trained in raster order.",
     "", "raster|tiles|hilbert", "raster", 0, 0, 0, true},
    {"pack", kPath, "Attention",
     "Router pack: what was learned for this model (sla2-calibrate, sla2-train); it sets mode, blocks and sparsity.", "", "", "",
     0, 0, 0, false},
    {"min_tokens", kInt, "Attention",
     "Clips of fewer tokens run full attention instead of sla2, sparse_only and pooled: it is faster there.", "tokens", "", "512",
     0, kMaxTokens, 1, true},
    {"dense_steps_first", kInt, "Attention", "First steps that keep full attention.", "steps", "", "0", 0, 1000, 1, true},
    {"dense_steps_last", kInt, "Attention", "Last steps that keep full attention.", "steps", "", "0", 0, 1000, 1, true},
    {"dense_layers_first", kInt, "Attention", "First layers that keep full attention.", "layers", "", "0", 0, 1000, 1, true},
    {"dense_layers_last", kInt, "Attention", "Last layers that keep full attention.", "layers", "", "0", 0, 1000, 1, true},
    {"router", kChoice, "Attention",
     "How key blocks are chosen: sla2, sla1: best mean scores; vsa: the same, made for tiles; vmoba: a share of the scores "
     "(top_p); "
     "sparge: by self-similarity (rule, top_p, theta).",
     "", "sla2|sla1|vsa|vmoba|sparge", "sla2", 0, 0, 0, true},
    {"rule", kChoice, "Attention",
     "Blocks that router sparge keeps: topk: as many as sparsity says; cdf: a share of top_p; hybrid: the larger of both.", "",
     "topk|cdf|hybrid", "topk", 0, 0, 0, true},
    {"top_p", kFloat, "Attention", "Share of the scores to reach: router vmoba, and sparge with rule cdf or hybrid.", "", "",
     "0.25", 0, 1, 0.01, true},
    {"theta", kFloat, "Attention", "Router sparge keeps blocks whose mean cosine with themselves is below this; -1: none.", "",
     "", "-1", -1, 1, 0.01, true},
    {"protect_first", kInt, "Attention", "First key blocks that are always kept, counted among the kept.", "blocks", "", "0", 0,
     kMostProtected, 1, true},
    {"protect_last", kInt, "Attention", "Last key blocks that are always kept.", "blocks", "", "0", 0, kMostProtected, 1, true},
    {"protect_near", kInt, "Attention", "Key blocks around the query block's own that are always kept; -1: not even its own.",
     "blocks", "", "-1", -1, kMostProtected, 1, true},
    {"mix", kChoice, "Attention",
     "Where the weight a of sla2's two branches comes from: head_affine_lse: from what was skipped; const: mix_bias; the others "
     "need a pack.",
     "", "head_affine_lse|const|head_scalar|block", "head_affine_lse", 0, 0, 0, true},
    {"mix_scale", kFloat, "Attention", "Scale of mix head_affine_lse in layers where nothing was learned.", "", "", "0.6", -100,
     100, 0, true},
    {"mix_bias", kFloat, "Attention",
     "Bias of mix head_affine_lse in layers where nothing was learned; with mix const a is its sigmoid.", "", "", "0.5", -100,
     100, 0, true},
    {"scope", kChoice, "Attention", "Keys of sla1's linear branch: those that were skipped, or all.", "", "complement|global",
     "complement", 0, 0, 0, true},
    {"smooth_k", kBool, "Attention", "The linear branch sees keys minus their mean.", "", "", "true", 0, 0, 0, true},
    {"negligible", kFloat, "Attention", "Mode sla1: this fraction of the key blocks, the least, is in neither branch.", "", "",
     "0", 0, 1, 0.01, true},
    {"probe", kFloat, "Attention",
     "Fraction of query blocks at which sparse layers are compared with full attention, for the report; costs that share of it.",
     "", "", "0", 0, 1, 0.01, true},
    {"block_q", kChoice, "Attention", "Query rows per attention block.", "rows", "32|64|128", "128", 0, 0, 0, true},
    {"block_k", kChoice, "Attention", "Key rows per attention block.", "rows", "16|32|64|128", "64", 0, 0, 0, true},

    {"model", kPath, "Model", "Folder with model.json, diffusers folder, or DiT file.", "", "", "", 0, 0, 0, false},
    {"lora", kString, "Model",
     "LoRA or weight-difference files added to the model: FILE or FILE@STRENGTH, several separated by semicolons.", "", "", "", 0,
     0, 0, false},
    {"vae", kPath, "Model", "VAE file, when the model is a single DiT file.", "", "", "", 0, 0, 0, false},
    {"text_encoder", kPath, "Model", "UMT5 file, when the model is a single DiT file.", "", "", "", 0, 0, 0, false},
    {"tokenizer", kPath, "Model", "spiece.model, when it is neither inside nor beside the text encoder.", "", "", "", 0, 0, 0,
     true},
    {"precision", kChoice, "Model", "Number format of the DiT's matrix products; auto is what this CPU does fastest.", "",
     "auto|fp32|bf16", "auto", 0, 0, 0, true},
    {"linear_bits", kChoice, "Model",
     "Bits of the matrix products in the DiT's blocks; 8 is faster, holds half the bytes, errs by half a percent more.", "bits",
     "16|8", "16", 0, 0, 0, false},
    {"vae_precision", kChoice, "Model",
     "Number format of the VAE's convolutions; auto is bf16 where the CPU is fast at it (AVX-512 BF16) and on a GPU, else fp32.",
     "", "auto|fp32|bf16", "auto", 0, 0, 0, true},
    {"vae_tile", kInt, "Model", "Decode in square tiles of this size to save memory; 0: whole frames, exact.", "px", "", "0", 0,
     kMaxSide, 16, true},

    {"device", kString, "Run", "Where the networks run: cpu; cuda or cuda:N, a GPU; auto, a GPU if there is one.", "", "", "cpu",
     0, 0, 0, false},
    {"threads", kInt, "Run", "CPU threads; 0: all this process may use.", "", "", "0", 0, 1024, 1, true},
    {"memory_limit", kInt, "Run", "Memory the job may plan for; 0: what is available.", "MB", "", "0", 0, kMaxMemoryMb, 1, true},
    {"checkpoint", kPath, "Run", "File that keeps the job's state, to resume from.", "", "", "", 0, 0, 0, true},
    {"checkpoint_every", kInt, "Run", "Steps between checkpoints; 0: only when stopped and before decoding.", "steps", "", "1", 0,
     1000, 1, true},
    {"latent_out", kPath, "Run", "File that gets the finished latent before decoding.", "", "", "", 0, 0, 0, true},
    {"embedding_cache", kPath, "Run", "Folder that keeps encoded prompts; empty: none.", "", "", "", 0, 0, 0, true},
    {"nan_retry", kBool, "Run", "Repeat a step with full attention and fp32 when it gives NaN.", "", "", "true", 0, 0, 0, true},
    {"preview_every", kInt, "Run", "Steps between rough previews; 0: none.", "steps", "", "1", 0, 1000, 1, true},
};
// clang-format on

}  // namespace

std::span<const ParamRow> param_table() noexcept { return kTable; }

}  // namespace sla2::config
