// SPDX-License-Identifier: Apache-2.0
// Which encoder serves a container: the first of a list that is compiled into this FFmpeg and really opens and encodes.
#pragma once
#include <string>
#include <vector>

#include "av.h"

namespace sla2::cli {

struct EncoderChoice {
  const char* name;  ///< libavcodec encoder
  AVPixelFormat format;
  const char* options;  ///< "key=value:…" private options; {crf} is replaced by the quality of this encoder's scale
  int worst_quality;    ///< largest value of its quality scale (x264: 51, vp9: 63)
  bool by_qscale;       ///< quality through AV_CODEC_FLAG_QSCALE, for encoders without CRF
  const char* enables;  ///< for doctor
};

/// Candidates in order of preference; container: "mp4", "webm".
const std::vector<EncoderChoice>& encoder_list(const std::string& container);

/// Frame rate as a fraction with a denominator FFmpeg accepts: 16 → 16/1, 29.97 → 2997/100.
AVRational frame_rate(double fps);

/// Open an encoder for a clip; null if it is not there or refuses (reason in *why).
Av<AVCodecContext> open_encoder(const EncoderChoice& choice, int width, int height, double fps, int quality, bool global_header,
                                std::string* why);

/// True if the encoder opens and turns one grey frame into a packet.
bool encoder_works(const EncoderChoice& choice, std::string* why);

}  // namespace sla2::cli
