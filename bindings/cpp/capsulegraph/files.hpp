/// Jobs on files: convert, split, verify, inspect, export.
#ifndef CAPSULEGRAPH_FILES_HPP
#define CAPSULEGRAPH_FILES_HPP

#include "control.hpp"

namespace capsulegraph {

/// What a job is at.
enum class Phase : std::uint32_t {
    convert = CAPG_PHASE_CONVERT,
    split = CAPG_PHASE_SPLIT,
    verify = CAPG_PHASE_VERIFY,
};

/// Whether weights are divided into two planes, of which a mini can hold the first.
enum class Planes : std::uint32_t {
    automatic = CAPG_PLANES_AUTO,
    whole = CAPG_PLANES_WHOLE,
    divided = CAPG_PLANES_DIVIDED,
};

/// Receives bytes done and bytes in all. An exception of it stops the job and comes out of the call; the job's cancel token,
/// where it was given one, is triggered then and stays so until it is reset.
using Progress = std::function<void(Phase phase, std::uint64_t done, std::uint64_t total)>;

/// What the jobs have in common.
struct JobOptions {
    /// Stops the job; nothing half-written stays under a target's name.
    const Cancel *cancel = nullptr;
    /// Receives log lines.
    const Log *log = nullptr;
    Progress progress;
};

/// How to convert; the defaults of capg_convert_options.
struct ConvertOptions {
    /// Path of the mini; default: the target's name with .mini.cgraph.
    std::string mini_path;
    /// Light forms that the mini may use: "auto" (default), "none", or the name of an encoding.
    std::string light;
    /// Text on which the agreement of mini and full file is measured; of an ONNX model lines of NAME=FILE.npy.
    std::string calibrate;
    /// Length of the mini at most; 0: by the precision of the model.
    std::uint64_t mini_bytes = 0;
    bool no_mini = false;
    Planes planes = Planes::automatic;
    /// Of an ONNX model: bytes of weights in a capsule at most; 0: 32 MiB.
    std::uint64_t capsule_bytes = 0;
    /// Of an ONNX model: number of capsules; 0: by capsule_bytes.
    std::uint32_t capsule_count = 0;
    /// Of an ONNX model: how far the mini's outputs may be from the full file's; 0: 0.05.
    float max_error = 0;
    /// ONNX Runtime's library or its folder; default: it is looked for.
    std::string onnxruntime_path;
    JobOptions job;
};

/// How to split; the defaults of capg_split_options, fields as in ConvertOptions.
struct SplitOptions {
    std::string light;
    std::string calibrate;
    std::uint64_t mini_bytes = 0;
    float max_error = 0;
    std::string onnxruntime_path;
    JobOptions job;
};

/// How to verify; the defaults of capg_verify_options.
struct VerifyOptions {
    /// Path of a mini's full file; default: the file of the recorded name beside the mini.
    std::string full_path;
    /// Read everything and hold it against the checksums.
    bool deep = false;
    /// Where there are problems, rebuild the mini from its full file and verify again.
    bool repair = false;
    JobOptions job;
};

/// What verifying found.
struct Verdict {
    /// Number of problems, after the repair where one was made.
    std::size_t problems = 0;
    /// A JSON object that lists them.
    std::string report;
};

namespace detail {

/// Progress and cancel token of one job as C wants them.
class Job {
public:
    /// Sets the fields that the options structs have in common, and runs `work`.
    template <class R, class O, class W>
    R run(const JobOptions &job, O &raw, W work) {
        progress_ = &job.progress;
        const auto log = optional(job.log);
        if (!log) return *log.error();
        raw.log = log->get();
        auto cancel = optional(job.cancel);
        if (!cancel) return *cancel.error();
        cancel_ = *std::move(cancel);
        if (job.progress) {
            if (!cancel_) {
                auto made = get<capg_cancel *>(capg_cancel_new);
                if (!made) return *made.error();
                cancel_ = std::shared_ptr<capg_cancel>(*made, Free<capg_cancel_free>());
            }
            raw.progress = receive;
            raw.progress_user_data = this;
        }
        raw.cancel = cancel_.get();
        R result = work();
        carrier_.rethrow();
        return result;
    }

private:
    static void receive(void *self, std::uint32_t phase, std::uint64_t done, std::uint64_t total) {
        auto &job = *static_cast<Job *>(self);
        if (job.carrier_.holds()) return;
        if (!job.carrier_.run([&] { (*job.progress_)(static_cast<Phase>(phase), done, total); }))
            capg_cancel_trigger(job.cancel_.get(), nullptr);
    }

    const Progress *progress_ = nullptr;
    /// Kept, for the callback may close the job's token.
    std::shared_ptr<capg_cancel> cancel_;
    Carrier carrier_;
};

} // namespace detail

/// Converts a GGUF or ONNX model to a full .cgraph file and, unless no_mini, derives its mini. Without a target: the source's
/// name with .cgraph. Gives a JSON object about the files written.
inline Result<std::string> try_convert(std::string_view source, std::string_view target = {},
                                       const ConvertOptions &options = {}) {
    auto raw = detail::options<capg_convert_options>();
    raw.mini_path = options.mini_path.data(), raw.mini_path_len = options.mini_path.size();
    raw.light = options.light.data(), raw.light_len = options.light.size();
    raw.calibrate = options.calibrate.data(), raw.calibrate_len = options.calibrate.size();
    raw.mini_bytes = options.mini_bytes;
    raw.no_mini = options.no_mini;
    raw.planes = static_cast<std::uint32_t>(options.planes);
    raw.capsule_bytes = options.capsule_bytes;
    raw.capsule_count = options.capsule_count;
    raw.max_error = options.max_error;
    raw.onnxruntime_path = options.onnxruntime_path.data(), raw.onnxruntime_path_len = options.onnxruntime_path.size();
    return detail::Job().run<Result<std::string>>(options.job, raw, [&] {
        return detail::text(capg_convert, source.data(), source.size(), target.data(), target.size(),
                            static_cast<const capg_convert_options *>(&raw));
    });
}

/// Derives a mini from the full file. Without a mini path: the full file's name with .mini.cgraph. Gives a JSON object with the
/// plan.
inline Result<std::string> try_split(std::string_view full, std::string_view mini = {}, const SplitOptions &options = {}) {
    auto raw = detail::options<capg_split_options>();
    raw.light = options.light.data(), raw.light_len = options.light.size();
    raw.calibrate = options.calibrate.data(), raw.calibrate_len = options.calibrate.size();
    raw.mini_bytes = options.mini_bytes;
    raw.max_error = options.max_error;
    raw.onnxruntime_path = options.onnxruntime_path.data(), raw.onnxruntime_path_len = options.onnxruntime_path.size();
    return detail::Job().run<Result<std::string>>(options.job, raw, [&] {
        return detail::text(capg_split, full.data(), full.size(), mini.data(), mini.size(),
                            static_cast<const capg_split_options *>(&raw));
    });
}

/// Verifies a .cgraph file. Problems found are no failure of the call.
inline Result<Verdict> try_verify(std::string_view path, const VerifyOptions &options = {}) {
    auto raw = detail::options<capg_verify_options>();
    raw.full_path = options.full_path.data(), raw.full_path_len = options.full_path.size();
    raw.deep = options.deep;
    raw.repair = options.repair;
    return detail::Job().run<Result<Verdict>>(options.job, raw, [&]() -> Result<Verdict> {
        std::size_t problems = 0;
        auto report = detail::text(capg_verify, path.data(), path.size(), static_cast<const capg_verify_options *>(&raw),
                                   &problems);
        if (!report) return *report.error();
        return Verdict{problems, *std::move(report)};
    });
}

/// The facts of a .cgraph file, a GGUF model or an ONNX model as a JSON object, with details every capsule too.
inline Result<std::string> try_inspect(std::string_view path, bool details = false) {
    return detail::text(capg_inspect, path.data(), path.size(), std::uint32_t{details});
}

/// Writes the ONNX model again that a full file was converted from. Gives a JSON object about the files written.
inline Result<std::string> try_export_onnx(std::string_view source, std::string_view target, const Cancel *cancel = nullptr) {
    const auto flag = detail::optional(cancel);
    if (!flag) return *flag.error();
    return detail::text(capg_export, source.data(), source.size(), target.data(), target.size(),
                        static_cast<const capg_cancel *>(flag->get()));
}

#if CAPSULEGRAPH_EXCEPTIONS
inline std::string convert(std::string_view source, std::string_view target = {}, const ConvertOptions &options = {}) {
    return try_convert(source, target, options).value();
}
inline std::string split(std::string_view full, std::string_view mini = {}, const SplitOptions &options = {}) {
    return try_split(full, mini, options).value();
}
inline Verdict verify(std::string_view path, const VerifyOptions &options = {}) { return try_verify(path, options).value(); }
inline std::string inspect(std::string_view path, bool details = false) { return try_inspect(path, details).value(); }
inline std::string export_onnx(std::string_view source, std::string_view target, const Cancel *cancel = nullptr) {
    return try_export_onnx(source, target, cancel).value();
}
#endif

} // namespace capsulegraph

#endif
