/*
 * CapsuleGraph: language models and ONNX models inside a memory budget, from one file that opens at once.
 *
 * Generated from src/ffi by cbindgen (tests/header.rs); do not edit. docs/c-api.md is the contract. In short:
 *
 * - Every function that can fail returns a capg_status and takes a nullable capg_error ** last, which is set to NULL
 *   at entry and to an error, which the caller frees, on failure. Other outputs are written on success only, but
 *   handle outputs are set to NULL at entry. NULL is an error wherever a comment does not say nullable.
 * - Handles belong to the caller, who frees each once with the _free function of its type; _free(NULL) does
 *   nothing, and the order does not matter. No function takes ownership of an argument or keeps a pointer to it.
 * - A view is borrowed from the handle that its comment names.
 * - Strings are UTF-8 with a length in bytes; an optional one may be (NULL, 0). Returned strings are followed by a
 *   NUL as well. Paths are UTF-8 on every system.
 * - Options structs: set all bytes to zero and struct_size to sizeof; zero is the default. NULL: all defaults.
 * - Thread class "any": from any thread at any time. "one": one call at a time on a session, else
 *   CAPG_ERROR_BUSY. "free": no other call may use the handle then or later.
 * - Callbacks run on the calling thread only, never after the call has returned, and must not throw or longjmp.
 *   parallel_for alone belongs to its model: every call that computes with that may call it.
 */

#ifndef CAPSULEGRAPH_H
#define CAPSULEGRAPH_H

#include <stddef.h>
#include <stdint.h>

/**
 * The number of the contract that this header belongs to. A program or binding compares it with
 * capg_abi_version() and refuses the library where they differ.
 */
#define CAPG_ABI_VERSION 1

/**
 * Done; outputs are written.
 */
#define CAPG_OK 0

/**
 * An argument or option is NULL, out of range, not UTF-8 or contradicts another.
 */
#define CAPG_ERROR_INVALID_ARGUMENT 1

/**
 * Valid, but this version of the library cannot do it.
 */
#define CAPG_ERROR_UNSUPPORTED 2

/**
 * The system refused to open, read, map, write or rename a file.
 */
#define CAPG_ERROR_IO 3

/**
 * A file is not what its format demands.
 */
#define CAPG_ERROR_MALFORMED 4

/**
 * A mini and a full file, or a file and a mode, do not belong together.
 */
#define CAPG_ERROR_MISMATCH 5

/**
 * Stored bytes do not match their checksum.
 */
#define CAPG_ERROR_CORRUPT 6

/**
 * Something asked for by name or number does not exist.
 */
#define CAPG_ERROR_NOT_FOUND 7

/**
 * A limit (context, size, memory) does not allow the request.
 */
#define CAPG_ERROR_LIMIT 8

/**
 * The caller's cancel token was triggered.
 */
#define CAPG_ERROR_CANCELLED 9

/**
 * The host's read callback reported a failure.
 */
#define CAPG_ERROR_HOST 10

/**
 * The session, part or group is in use by another call, or a capsule has not come yet.
 */
#define CAPG_ERROR_BUSY 11

/**
 * A defect of the library; please report it.
 */
#define CAPG_ERROR_INTERNAL 12

/**
 * A call failed.
 */
#define CAPG_LOG_ERROR 1

/**
 * Something is not as it was asked for.
 */
#define CAPG_LOG_WARNING 2

/**
 * What was done.
 */
#define CAPG_LOG_INFO 3

/**
 * Details.
 */
#define CAPG_LOG_DEBUG 4

/**
 * Progress phase: the full file is being written.
 */
#define CAPG_PHASE_CONVERT 1

/**
 * Progress phase: the mini is being written.
 */
#define CAPG_PHASE_SPLIT 2

/**
 * Progress phase: a file is being read and checked, or rebuilt.
 */
#define CAPG_PHASE_VERIFY 3

/**
 * Weights are divided into two planes where a mini is made with the full file and light is "auto": others hold no first
 * planes.
 */
#define CAPG_PLANES_AUTO 0

/**
 * Weights are stored as kernels read them.
 */
#define CAPG_PLANES_WHOLE 1

/**
 * Weights are divided where their encoding can be: a mini can then hold the first planes, and drafts cost the passes of a
 * budget fewer bytes. Without a budget computing takes somewhat longer.
 */
#define CAPG_PLANES_DIVIDED 2

/**
 * Compute threads run with the priority of the thread that opens the model.
 */
#define CAPG_PRIORITY_INHERITED 0

/**
 * Compute threads stand behind the host's ordinary threads.
 */
#define CAPG_PRIORITY_LOW 1

/**
 * Compute threads stand behind everybody else's; on a busy processor a small share is left to them, for which the
 * caller waits.
 */
#define CAPG_PRIORITY_LOWEST 2

/**
 * Run mode: exact; of a mini in a budget that all weights do not fit speculative, where that is expected to be faster and
 * leaves room for the session that the options name; of a mini whose full file cannot be reached fast. capg_model_mode says
 * what it came to.
 */
#define CAPG_MODE_AUTO 0

/**
 * Run mode: every capsule at full precision.
 */
#define CAPG_MODE_EXACT 1

/**
 * Run mode: only what the mini holds; the full file is never opened.
 */
#define CAPG_MODE_FAST 2

/**
 * Run mode: the tokens of exact; the mini drafts some, and one pass at full precision verifies them together. Of a full
 * file, where there is no mini, text that repeats is all that is guessed to go on as before.
 */
#define CAPG_MODE_SPECULATIVE 3

/**
 * Weights of an ONNX model are copied into the form that ONNX Runtime's kernels like best: of each capsule where it pays and
 * the budget has room.
 */
#define CAPG_PREPACK_AUTO 0

/**
 * Of every capsule.
 */
#define CAPG_PREPACK_ON 1

/**
 * Of none: all weights are used where they lie in the mapped file.
 */
#define CAPG_PREPACK_OFF 2

/**
 * ONNX Runtime optimises the graph of each capsule.
 */
#define CAPG_OPTIMIZATION_DEFAULT 0

/**
 * It does not: slower, and the bits of the outputs do not depend on how the model is cut.
 */
#define CAPG_OPTIMIZATION_OFF 1

/**
 * Every capsule of an ONNX model has a session of its own.
 */
#define CAPG_JOINED_NONE 1

/**
 * Tokenize flag: add the BOS and EOS tokens that the model asks for.
 */
#define CAPG_TOKENIZE_ADD_SPECIAL 1

/**
 * Tokenize flag: the text of a control token becomes that token. Leave it off for text from outside.
 */
#define CAPG_TOKENIZE_PARSE_SPECIAL 2

/**
 * Detokenize flag: print control tokens too.
 */
#define CAPG_DETOKENIZE_SPECIAL 1

/**
 * Chat flag: leave out the beginning of the next answer.
 */
#define CAPG_CHAT_NO_REPLY 1

/**
 * KV type: keys and values in half precision.
 */
#define CAPG_KV_F16 0

/**
 * KV type: 8-bit codes with a scale for every 32, about half the memory. Logits differ a little.
 */
#define CAPG_KV_Q8_0 1

/**
 * Session flag: in mode speculative the mini drafts alone; text that repeats is not guessed to go on as before.
 */
#define CAPG_SESSION_WITHOUT_LOOKUP 1

/**
 * Eval flag: compute the logits of every token given, not of the last alone.
 */
#define CAPG_EVAL_ALL_LOGITS 1

/**
 * Finish reason: the generation is not over.
 */
#define CAPG_FINISH_NONE 0

/**
 * Finish reason: the model ended its text.
 */
#define CAPG_FINISH_END 1

/**
 * Finish reason: a stop string came.
 */
#define CAPG_FINISH_STOP 2

/**
 * Finish reason: max_tokens were generated.
 */
#define CAPG_FINISH_LENGTH 3

/**
 * Finish reason: the context is full.
 */
#define CAPG_FINISH_CONTEXT 4

/**
 * Finish reason: the token callback asked to stop; the generation can go on.
 */
#define CAPG_FINISH_CALLBACK 5

/**
 * Element type: not said.
 */
#define CAPG_ELEMENT_NONE 0

/**
 * Element type: float32.
 */
#define CAPG_ELEMENT_FLOAT32 1

/**
 * Element type: uint8.
 */
#define CAPG_ELEMENT_UINT8 2

/**
 * Element type: int8.
 */
#define CAPG_ELEMENT_INT8 3

/**
 * Element type: uint16.
 */
#define CAPG_ELEMENT_UINT16 4

/**
 * Element type: int16.
 */
#define CAPG_ELEMENT_INT16 5

/**
 * Element type: int32.
 */
#define CAPG_ELEMENT_INT32 6

/**
 * Element type: int64.
 */
#define CAPG_ELEMENT_INT64 7

/**
 * Element type: string, capg_string.
 */
#define CAPG_ELEMENT_STRING 8

/**
 * Element type: bool, a byte, 0 or 1.
 */
#define CAPG_ELEMENT_BOOL 9

/**
 * Element type: float16.
 */
#define CAPG_ELEMENT_FLOAT16 10

/**
 * Element type: float64.
 */
#define CAPG_ELEMENT_FLOAT64 11

/**
 * Element type: uint32.
 */
#define CAPG_ELEMENT_UINT32 12

/**
 * Element type: uint64.
 */
#define CAPG_ELEMENT_UINT64 13

/**
 * Element type: complex64, two floats of 32 bits: real, imaginary.
 */
#define CAPG_ELEMENT_COMPLEX64 14

/**
 * Element type: complex128, two floats of 64 bits: real, imaginary.
 */
#define CAPG_ELEMENT_COMPLEX128 15

/**
 * Element type: bfloat16.
 */
#define CAPG_ELEMENT_BFLOAT16 16

/**
 * Element type: float8e4m3fn.
 */
#define CAPG_ELEMENT_FLOAT8E4M3FN 17

/**
 * Element type: float8e4m3fnuz.
 */
#define CAPG_ELEMENT_FLOAT8E4M3FNUZ 18

/**
 * Element type: float8e5m2.
 */
#define CAPG_ELEMENT_FLOAT8E5M2 19

/**
 * Element type: float8e5m2fnuz.
 */
#define CAPG_ELEMENT_FLOAT8E5M2FNUZ 20

/**
 * Element type: uint4, two to a byte, the first in the low bits.
 */
#define CAPG_ELEMENT_UINT4 21

/**
 * Element type: int4.
 */
#define CAPG_ELEMENT_INT4 22

/**
 * Element type: float4e2m1.
 */
#define CAPG_ELEMENT_FLOAT4E2M1 23

/**
 * Element type: float8e8m0.
 */
#define CAPG_ELEMENT_FLOAT8E8M0 24

/**
 * Element type: uint2, four to a byte, the first in the lowest bits.
 */
#define CAPG_ELEMENT_UINT2 25

/**
 * Element type: int2.
 */
#define CAPG_ELEMENT_INT2 26

/**
 * Kind of value: a tensor.
 */
#define CAPG_VALUE_TENSOR 0

/**
 * Kind of value: a sequence of tensors.
 */
#define CAPG_VALUE_SEQUENCE 1

/**
 * Kind of value: an optional value that is absent; for an input that is no optional value it counts as not given. Of a port:
 * an optional value.
 */
#define CAPG_VALUE_NONE 2

/**
 * Kind of value: a map, as a tensor of its keys and one of its values.
 */
#define CAPG_VALUE_MAP 3

/**
 * Kind of value: a sequence of maps, two tensors each.
 */
#define CAPG_VALUE_SEQUENCE_OF_MAPS 4

/**
 * Kind of port only: a sparse tensor, which cannot be run with.
 */
#define CAPG_VALUE_SPARSE 5

/**
 * Direction of a port: what the model takes.
 */
#define CAPG_PORT_INPUT 0

/**
 * Direction of a port: what the model gives.
 */
#define CAPG_PORT_OUTPUT 1

/**
 * Layout: row after row in the encoding that the file holds. At full precision these are the source's own bytes; in mode
 * fast they are in the mini's own form, which may be coarser.
 */
#define CAPG_LAYOUT_SOURCE 0

/**
 * Layout: as kernels read them: matrices packed, the two planes of a divided tensor joined.
 */
#define CAPG_LAYOUT_STORED 1

/**
 * Layout: decoded to floats, row after row.
 */
#define CAPG_LAYOUT_F32 2

/**
 * A bound on all memory that the library holds for the models that were opened with it, and for their sessions. It
 * lives as long as they do, whether the handle is freed or not.
 */
typedef struct capg_budget capg_budget;

/**
 * A flag that any thread puts up to stop the calls that were given it.
 */
typedef struct capg_cancel capg_cancel;

/**
 * A capsule's tensors. Owned by the host, immutable; keeps its model in memory.
 */
typedef struct capg_capsule capg_capsule;

/**
 * Why a call failed. Owned by the host, immutable.
 */
typedef struct capg_error capg_error;

/**
 * Capsules on their way. Owned by the host.
 */
typedef struct capg_fetch capg_fetch;

/**
 * Steps sessions of one model together, so that they share each pass over the weights. Owned by the host; used by one
 * call at a time.
 */
typedef struct capg_group capg_group;

/**
 * A queue of log lines.
 */
typedef struct capg_log capg_log;

/**
 * An opened language model or ONNX model. Owned by the host, immutable, shared by any number of sessions on any threads.
 */
typedef struct capg_model capg_model;

/**
 * A sequence on the capsules that a model was opened for (first_capsule and end_capsule of its options), with their KV
 * cache: token ids or activations come in, activations or logits go out. Owned by the host; used by one call at a time.
 */
typedef struct capg_part capg_part;

/**
 * A sequence of tokens on a model, with its KV cache and at most one generation in progress. Owned by the host;
 * used by one call at a time.
 */
typedef struct capg_session capg_session;

/**
 * A text that a call returned. Owned by the host, immutable.
 */
typedef struct capg_text capg_text;

/**
 * Token ids that a call returned. Owned by the host, immutable.
 */
typedef struct capg_tokens capg_tokens;

/**
 * What a run gave: its outputs. Owned by the host, immutable; keeps neither the model nor the inputs.
 */
typedef struct capg_values capg_values;

/**
 * What a call returns: CAPG_OK or one of CAPG_ERROR_*. Expect numbers that you do not know and treat them as
 * failures. A number is never given another meaning.
 */
typedef uint32_t capg_status;

/**
 * Receives one line: its CAPG_LOG_* level and its text without a line feed, valid until the callback returns.
 */
typedef void (*capg_log_callback)(void *user_data, uint32_t level, const char *line, size_t line_len);

/**
 * Receives the progress of a job: CAPG_PHASE_*, bytes done, bytes in all. To stop the job, trigger its cancel
 * token here.
 */
typedef void (*capg_progress_callback)(void *user_data, uint32_t phase, uint64_t done, uint64_t total);

/**
 * How to convert. All zero but struct_size: the defaults.
 */
typedef struct capg_convert_options {
  /**
   * sizeof(capg_convert_options).
   */
  size_t struct_size;
  /**
   * Path of the mini, UTF-8. Default: the target's name with .mini.cgraph.
   */
  const char *mini_path;
  /**
   * Its length in bytes.
   */
  size_t mini_path_len;
  /**
   * Light forms that the mini may use: "auto" (default), "none", or the name of an encoding.
   */
  const char *light;
  /**
   * Its length in bytes.
   */
  size_t light_len;
  /**
   * Text on which the agreement of mini and full file is measured; of an ONNX model lines of NAME=FILE.npy, one or more for
   * each input. Default: a bundled sample, for small models; of an ONNX model random inputs.
   */
  const char *calibrate;
  /**
   * Its length in bytes.
   */
  size_t calibrate_len;
  /**
   * Stops the job; no file is left half-written, and a full file that was done before its mini stays. Nullable.
   */
  const struct capg_cancel *cancel;
  /**
   * Receives log lines. Nullable.
   */
  const struct capg_log *log;
  /**
   * Receives the progress. Nullable.
   */
  capg_progress_callback progress;
  /**
   * Handed to progress.
   */
  void *progress_user_data;
  /**
   * Length of the mini at most, in bytes. Default: by the precision of the model.
   */
  uint64_t mini_bytes;
  /**
   * 1: write no mini.
   */
  uint32_t no_mini;
  /**
   * How weights are stored, CAPG_PLANES_*. Default: CAPG_PLANES_AUTO.
   */
  uint32_t planes;
  /**
   * Of an ONNX model: bytes of weights in a capsule at most, where the graph can be cut so. Default: 32 MiB.
   */
  uint64_t capsule_bytes;
  /**
   * Of an ONNX model: number of capsules, or as many as its graph can be cut into. Default: by capsule_bytes.
   */
  uint32_t capsule_count;
  /**
   * Of an ONNX model: how far the mini's outputs may be from the full file's, relative to their own. Default: 0.05.
   */
  float max_error;
  /**
   * To measure the mini of an ONNX model with: path of ONNX Runtime's library or its folder. Default: it is looked for.
   */
  const char *onnxruntime_path;
  /**
   * Its length in bytes.
   */
  size_t onnxruntime_path_len;
} capg_convert_options;

/**
 * How to split. All zero but struct_size: the defaults.
 */
typedef struct capg_split_options {
  /**
   * sizeof(capg_split_options).
   */
  size_t struct_size;
  /**
   * Light forms that the mini may use: "auto" (default), "none", or the name of an encoding.
   */
  const char *light;
  /**
   * Its length in bytes.
   */
  size_t light_len;
  /**
   * Text on which the agreement of mini and full file is measured; of an ONNX model lines of NAME=FILE.npy, one or more for
   * each input. Default: a bundled sample, for small models; of an ONNX model random inputs.
   */
  const char *calibrate;
  /**
   * Its length in bytes.
   */
  size_t calibrate_len;
  /**
   * Stops the job; nothing is left under the mini's name. Nullable.
   */
  const struct capg_cancel *cancel;
  /**
   * Receives log lines. Nullable.
   */
  const struct capg_log *log;
  /**
   * Receives the progress. Nullable.
   */
  capg_progress_callback progress;
  /**
   * Handed to progress.
   */
  void *progress_user_data;
  /**
   * Length of the mini at most, in bytes. Default: by the precision of the model.
   */
  uint64_t mini_bytes;
  /**
   * To measure the mini of an ONNX model with: path of ONNX Runtime's library or its folder. Default: it is looked for.
   */
  const char *onnxruntime_path;
  /**
   * Its length in bytes.
   */
  size_t onnxruntime_path_len;
  /**
   * Of an ONNX model: how far the mini's outputs may be from the full file's, relative to their own. Default: 0.05.
   */
  float max_error;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} capg_split_options;

/**
 * How to verify. All zero but struct_size: the defaults.
 */
typedef struct capg_verify_options {
  /**
   * sizeof(capg_verify_options).
   */
  size_t struct_size;
  /**
   * Path of a mini's full file, UTF-8. Default: the file of the recorded name beside the mini.
   */
  const char *full_path;
  /**
   * Its length in bytes.
   */
  size_t full_path_len;
  /**
   * Stops the work. Nullable.
   */
  const struct capg_cancel *cancel;
  /**
   * Receives log lines. Nullable.
   */
  const struct capg_log *log;
  /**
   * Receives the progress. Nullable.
   */
  capg_progress_callback progress;
  /**
   * Handed to progress.
   */
  void *progress_user_data;
  /**
   * 1: read everything and hold it against the checksums.
   */
  uint32_t deep;
  /**
   * 1: where there are problems, rebuild the mini from its full file and verify again.
   */
  uint32_t repair;
} capg_verify_options;

/**
 * Fills all of buffer, len bytes, from offset of the host's file and returns 0; any other number is a failure,
 * which the message of the error names. offset + len never exceeds the reader's size.
 */
typedef int32_t (*capg_read_callback)(void *user_data, uint64_t offset, void *buffer, size_t len);

/**
 * A file that the host reads: out of its archive, decrypted, from a network. Used only inside the call that it
 * is given to, and only on that thread.
 */
typedef struct capg_reader {
  /**
   * sizeof(capg_reader).
   */
  size_t struct_size;
  /**
   * Reads; required.
   */
  capg_read_callback read;
  /**
   * Handed to read.
   */
  void *user_data;
  /**
   * The file's name for messages, UTF-8. Default: "the host's file".
   */
  const char *name;
  /**
   * Its length in bytes.
   */
  size_t name_len;
  /**
   * The file's length in bytes.
   */
  uint64_t size;
} capg_reader;

/**
 * The part of a parallel loop that the library asks the host to run, on any of its threads: to be called with the
 * task_data that came with it. It returns when nothing is left to begin, and never lets an exception out.
 */
typedef void (*capg_parallel_task)(void *task_data);

/**
 * Runs a parallel loop on the host's threads: calls task(task_data) up to count times, each on a thread of its
 * own (the calling one may be among them), and returns when every call that has begun has returned; one that begins
 * later finds nothing to do. The library finishes what is left, so fewer calls are slower but not wrong. Called by
 * the thread that computes, inside its call, several times per layer and token: it should cost microseconds. Never called for a loop of one task, nor at all
 * where the model has one thread: the thread that computes then does it alone. It must not throw and must not
 * call the library.
 */
typedef void (*capg_parallel_for_callback)(void *user_data,
                                           uint32_t count,
                                           capg_parallel_task task,
                                           void *task_data);

/**
 * How to open a model. All zero but struct_size: the defaults.
 */
typedef struct capg_model_options {
  /**
   * sizeof(capg_model_options).
   */
  size_t struct_size;
  /**
   * Path of a mini's full file, UTF-8. Default: the file of the recorded name beside the mini.
   */
  const char *full_path;
  /**
   * Its length in bytes.
   */
  size_t full_path_len;
  /**
   * The full file of a mini through the host; excludes full_path. Nullable.
   */
  const struct capg_reader *full_reader;
  /**
   * Receives log lines, those of the model's sessions too. Nullable.
   */
  const struct capg_log *log;
  /**
   * First byte of the model in its file, where it is part of a larger one (an archive).
   */
  uint64_t offset;
  /**
   * Bytes of the model in its file; 0: up to the file's end.
   */
  uint64_t length;
  /**
   * First byte of the full file in full_path.
   */
  uint64_t full_offset;
  /**
   * Bytes of the full file in full_path; 0: up to its end.
   */
  uint64_t full_length;
  /**
   * Upper bound in bytes on all memory that the library holds for the model and its sessions: weights, KV caches,
   * activations, tables. 0: none, and the file is mapped. A bound that cannot work is CAPG_ERROR_LIMIT, from the call
   * that needs more than there is; its message names the smallest one that can.
   */
  uint64_t memory_budget_bytes;
  /**
   * CAPG_MODE_*.
   */
  uint32_t mode;
  /**
   * Threads that compute, the caller's included; 0: one per entry of processors, else one per processor that the
   * process may use. Those that the system refuses to start are missing, and capg_model_threads says how many
   * there are. With parallel_for the greatest count that it is called with.
   */
  uint32_t threads;
  /**
   * Numbers of the processors that the library's threads may run on (the caller's thread stays as it is). One
   * that the system does not allow, or that is named twice, is an error. Default: all.
   */
  const uint32_t *processors;
  /**
   * How many there are, at most 1024.
   */
  size_t processors_len;
  /**
   * Runs the parallel loops on the host's threads; the model then has none of its own, and processors and
   * priority must be left out. It is called by every thread that computes with the model, by one at a time.
   * Nullable.
   */
  capg_parallel_for_callback parallel_for;
  /**
   * Handed to parallel_for.
   */
  void *parallel_for_data;
  /**
   * CAPG_PRIORITY_* of the library's threads.
   */
  uint32_t priority;
  /**
   * Must be 0.
   */
  uint32_t reserved;
  /**
   * A budget that the model shares with others; excludes memory_budget_bytes. Nullable.
   */
  const struct capg_budget *budget;
  /**
   * Index of the first capsule that is computed with here, where other processes have the others (capg_part_new): no
   * other weights are held or count in a budget, but that a tied head reads the embedding's. 0 with end_capsule 0: all.
   */
  uint32_t first_capsule;
  /**
   * Index past the last one; at most capg_model_capsule_count.
   */
  uint32_t end_capsule;
  /**
   * Positions of the session that the model is opened for; 0: as many as a session has by default. Under a budget mode
   * auto leaves room for it, and the message of CAPG_ERROR_LIMIT counts with it. Other sessions are possible.
   */
  uint32_t session_context;
  /**
   * CAPG_KV_* of that session.
   */
  uint32_t session_kv_type;
  /**
   * Of an ONNX model: path of ONNX Runtime's library, UTF-8, or of the folder that it is in. A process has one: another
   * than the one that is loaded is CAPG_ERROR_INVALID_ARGUMENT when the model first runs. Default: it is looked for.
   */
  const char *onnxruntime_path;
  /**
   * Its length in bytes.
   */
  size_t onnxruntime_path_len;
  /**
   * Of an ONNX model: CAPG_PREPACK_*.
   */
  uint32_t prepack;
  /**
   * Of an ONNX model: CAPG_OPTIMIZATION_*.
   */
  uint32_t optimization;
  /**
   * Of an ONNX model: bytes of weights up to which neighbouring capsules are computed by one session of ONNX Runtime; 0:
   * 4 MiB; CAPG_JOINED_NONE: each has its own.
   */
  uint64_t joined_bytes;
} capg_model_options;

/**
 * One message of a conversation.
 */
typedef struct capg_chat_message {
  /**
   * Who speaks, UTF-8: "system", "user", "assistant", or what the template knows besides.
   */
  const char *role;
  /**
   * Its length in bytes.
   */
  size_t role_len;
  /**
   * What is said, UTF-8.
   */
  const char *content;
  /**
   * Its length in bytes.
   */
  size_t content_len;
} capg_chat_message;

/**
 * How to make a session. All zero but struct_size: the defaults.
 */
typedef struct capg_session_options {
  /**
   * sizeof(capg_session_options).
   */
  size_t struct_size;
  /**
   * Positions that there is room for; 0: the model's own context, at most 4096.
   */
  uint32_t context;
  /**
   * Tokens that are evaluated together while a prompt is read; 0: what suits the machine. It never changes a
   * bit of the results.
   */
  uint32_t batch;
  /**
   * CAPG_KV_*: how keys and values of past tokens are kept.
   */
  uint32_t kv_type;
  /**
   * CAPG_SESSION_* flags.
   */
  uint32_t flags;
} capg_session_options;

/**
 * A UTF-8 string as an element of an array.
 */
typedef struct capg_string {
  /**
   * Bytes; may be NULL where len is 0.
   */
  const char *data;
  /**
   * Number of bytes.
   */
  size_t len;
} capg_string;

/**
 * What to generate. All zero but struct_size: greedy, until the model ends its text or the context is full.
 */
typedef struct capg_generate_options {
  /**
   * sizeof(capg_generate_options).
   */
  size_t struct_size;
  /**
   * The text ends before the first of these.
   */
  const struct capg_string *stop;
  /**
   * Number of stop strings.
   */
  size_t stop_count;
  /**
   * Tokens at most; 0: as many as the context has room for.
   */
  uint64_t max_tokens;
  /**
   * Chooses one of the possible random sequences.
   */
  uint64_t seed;
  /**
   * Divides the logits: 0 takes the best token always, 1 leaves the model's own distribution. At most 100.
   */
  float temperature;
  /**
   * Keeps the fewest best tokens whose probabilities reach this sum; 0 and 1 keep all.
   */
  float top_p;
  /**
   * Drops tokens less probable than this share of the best one's probability; 0 keeps all.
   */
  float min_p;
  /**
   * Divides positive and multiplies negative logits of recent tokens; 0 and 1 change nothing.
   */
  float repeat_penalty;
  /**
   * Keeps this many best tokens; 0 keeps all.
   */
  uint32_t top_k;
  /**
   * How many recent tokens are penalised; 0 means 64.
   */
  uint32_t repeat_window;
  /**
   * 1: go on after an end-of-generation token (for measurements).
   */
  uint32_t ignore_end;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} capg_generate_options;

/**
 * Receives a token and the text that became complete with it: UTF-8, NUL-terminated, possibly empty, never a part
 * of a character. Returns 0 to go on, anything else to stop.
 */
typedef int32_t (*capg_token_callback)(void *user_data, uint32_t token, const char *text, size_t text_len);

/**
 * What a slice of a generation gave. The host sets struct_size, the library the rest. Pointers are views of the
 * session, valid until its next call that is not a view.
 */
typedef struct capg_slice {
  /**
   * sizeof(capg_slice), set by the host.
   */
  size_t struct_size;
  /**
   * Text that became complete: UTF-8, NUL-terminated, possibly empty, never a part of a character.
   */
  const char *text;
  /**
   * Its length in bytes.
   */
  size_t text_len;
  /**
   * Tokens that were generated.
   */
  const uint32_t *tokens;
  /**
   * Their number.
   */
  size_t token_count;
  /**
   * 1: the generation goes on, call again. 0: it is over.
   */
  uint32_t more;
  /**
   * CAPG_FINISH_NONE while there is more, else why it ended.
   */
  uint32_t finish_reason;
} capg_slice;

/**
 * How to make a part. All zero but struct_size: the defaults.
 */
typedef struct capg_part_options {
  /**
   * sizeof(capg_part_options).
   */
  size_t struct_size;
  /**
   * Positions that there is room for; 0: the model's own context, at most 4096.
   */
  uint32_t context;
  /**
   * CAPG_KV_*: how keys and values of past tokens are kept. The bits are those of one process where it is the same in
   * all parts.
   */
  uint32_t kv_type;
} capg_part_options;

/**
 * A dense tensor, in row-major order. Frozen: it never grows.
 */
typedef struct capg_tensor {
  /**
   * The elements, little-endian; of types below 8 bits the first in a byte's low bits. Strings: capg_string.
   */
  const void *data;
  /**
   * Their length in bytes. Strings: their number.
   */
  size_t data_len;
  /**
   * Extents, outermost first.
   */
  const int64_t *dims;
  /**
   * Number of extents; 0: a single element.
   */
  size_t rank;
  /**
   * CAPG_ELEMENT_*.
   */
  uint32_t element;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} capg_tensor;

/**
 * A value under its name. Frozen: it never grows.
 */
typedef struct capg_value {
  /**
   * Name of the input or output, UTF-8.
   */
  const char *name;
  /**
   * Its length in bytes.
   */
  size_t name_len;
  /**
   * What it is made of.
   */
  const struct capg_tensor *tensors;
  /**
   * Number of tensors: 1 of a tensor, 0 of an absent value, 2 of a map, 2 for each map of a sequence of maps.
   */
  size_t count;
  /**
   * CAPG_VALUE_*.
   */
  uint32_t kind;
  /**
   * CAPG_ELEMENT_* of the tensors, of a map of its values; of an input 0 will do where there are tensors.
   */
  uint32_t element;
} capg_value;

/**
 * An input or output of an ONNX model. The host sets struct_size, the library the rest. Pointers are views of the model,
 * valid until it is freed.
 */
typedef struct capg_port {
  /**
   * sizeof(capg_port), set by the host.
   */
  size_t struct_size;
  /**
   * Name, UTF-8, NUL-terminated.
   */
  const char *name;
  /**
   * Its length in bytes.
   */
  size_t name_len;
  /**
   * Extents, outermost first; -1: any.
   */
  const int64_t *dims;
  /**
   * The name of each extent that may be any: extents of one name are equal. Empty where there is none.
   */
  const struct capg_string *dim_names;
  /**
   * Number of extents.
   */
  size_t rank;
  /**
   * CAPG_VALUE_*; CAPG_VALUE_NONE: an optional value, CAPG_VALUE_SPARSE: a sparse tensor.
   */
  uint32_t kind;
  /**
   * CAPG_ELEMENT_*: of a sequence or optional value that of its tensors, of a map that of its values; 0: not said.
   */
  uint32_t element;
  /**
   * 1: there are so many extents; 0: even their number is open.
   */
  uint32_t has_shape;
  /**
   * 1: an input that has a default and may be left out.
   */
  uint32_t optional;
} capg_port;

/**
 * How to run. All zero but struct_size: the defaults.
 */
typedef struct capg_run_options {
  /**
   * sizeof(capg_run_options).
   */
  size_t struct_size;
  /**
   * Must be 0: there are none yet.
   */
  uint32_t flags;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} capg_run_options;

/**
 * A tensor of a capsule. The host sets struct_size, the library the rest. Pointers are views of the capsule,
 * valid until it is freed.
 */
typedef struct capg_tensor_view {
  /**
   * sizeof(capg_tensor_view), set by the host.
   */
  size_t struct_size;
  /**
   * Name, UTF-8, NUL-terminated.
   */
  const char *name;
  /**
   * Its length in bytes.
   */
  size_t name_len;
  /**
   * How the elements are stored: "f32", "f16", "q4_k", ...
   */
  const char *encoding;
  /**
   * Its length in bytes.
   */
  size_t encoding_len;
  /**
   * How rows are arranged: "rows", "packed8" (only with CAPG_LAYOUT_STORED), or "plain" (of an ONNX model).
   */
  const char *layout;
  /**
   * Its length in bytes.
   */
  size_t layout_len;
  /**
   * Extents in elements, outermost first.
   */
  const uint64_t *shape;
  /**
   * Number of extents.
   */
  size_t dimensions;
  /**
   * The bytes, little-endian; of encoding "f32" aligned to 4 bytes, else of any alignment.
   */
  const void *data;
  /**
   * Their number.
   */
  size_t data_len;
} capg_tensor_view;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The library's release, such as "0.1.0". Static, NUL-terminated. Thread class: any.
 */
const char *capg_version_string(void);

/**
 * The number of the contract that the library keeps; see CAPG_ABI_VERSION. Thread class: any.
 */
uint32_t capg_abi_version(void);

/**
 * The name of a status: "ok", "invalid_argument", ...; "unknown" for a number that this library does not have.
 * Static, NUL-terminated. Thread class: any.
 */
const char *capg_status_name(capg_status status);

/**
 * The status that the failed call returned; CAPG_OK for NULL. Thread class: any.
 */
capg_status capg_error_status(const struct capg_error *error);

/**
 * One line for a person: what failed, where, why, what to do. UTF-8, NUL-terminated, valid until the error is
 * freed; "" for NULL. len (nullable) receives its length in bytes. Thread class: any.
 */
const char *capg_error_message(const struct capg_error *error, size_t *len);

/**
 * Frees an error; does nothing for NULL. Thread class: free.
 */
void capg_error_free(struct capg_error *error);

/**
 * A view of a text: UTF-8, NUL-terminated (len does not count the NUL), valid until the text is freed.
 * Thread class: any.
 */
capg_status capg_text_view(const struct capg_text *text,
                           const char **data,
                           size_t *len,
                           struct capg_error **error);

/**
 * Frees a text; does nothing for NULL. Thread class: free.
 */
void capg_text_free(struct capg_text *text);

/**
 * A view of the ids, valid until the tokens are freed. Thread class: any.
 */
capg_status capg_tokens_view(const struct capg_tokens *tokens,
                             const uint32_t **ids,
                             size_t *count,
                             struct capg_error **error);

/**
 * Frees tokens; does nothing for NULL. Thread class: free.
 */
void capg_tokens_free(struct capg_tokens *tokens);

/**
 * Makes a budget of that many bytes. Errors: INVALID_ARGUMENT for 0. Thread class: any.
 */
capg_status capg_budget_new(uint64_t bytes, struct capg_budget **budget, struct capg_error **error);

/**
 * Another bound from now on. Where it is less, weights are given up before the call returns, which waits for passes in
 * progress; where it is more, weights stay as they are read again. Errors: LIMIT where the open models and sessions
 * cannot work in it (the message names the smallest bound that they can work in; the bound is then as it was),
 * INVALID_ARGUMENT for 0. Thread class: any.
 */
capg_status capg_budget_resize(const struct capg_budget *budget,
                               uint64_t bytes,
                               struct capg_error **error);

/**
 * The bound, and of it the bytes that KV caches, activations, tables and fetched capsules claim; the rest holds weights. It
 * does not wait: while another thread changes the budget the two numbers may be of before and after. claimed: nullable.
 * Thread class: any.
 */
capg_status capg_budget_bytes(const struct capg_budget *budget,
                              uint64_t *bytes,
                              uint64_t *claimed,
                              struct capg_error **error);

/**
 * Frees a budget; does nothing for NULL. Models that were opened with it keep it. Thread class: free.
 */
void capg_budget_free(struct capg_budget *budget);

/**
 * Makes a token that is not triggered. Thread class: any.
 */
capg_status capg_cancel_new(struct capg_cancel **cancel, struct capg_error **error);

/**
 * Asks every call that was given this token to stop and to return CAPG_ERROR_CANCELLED. The flag stays up
 * until capg_cancel_reset. Thread class: any.
 */
capg_status capg_cancel_trigger(const struct capg_cancel *cancel, struct capg_error **error);

/**
 * Makes a triggered token usable again. Thread class: any.
 */
capg_status capg_cancel_reset(const struct capg_cancel *cancel, struct capg_error **error);

/**
 * Whether the token was triggered since it was last reset: 0 or 1. Thread class: any.
 */
capg_status capg_cancel_is_triggered(const struct capg_cancel *cancel,
                                     uint32_t *triggered,
                                     struct capg_error **error);

/**
 * Frees a token; does nothing for NULL. Not before the calls that use it have returned. Thread class: free.
 */
void capg_cancel_free(struct capg_cancel *cancel);

/**
 * Makes a log that keeps lines of this CAPG_LOG_* level and the more important ones (0: CAPG_LOG_INFO). Name it
 * in the options of other calls, and take its lines with capg_log_deliver. Thread class: any.
 */
capg_status capg_log_new(uint32_t level,
                         struct capg_log **log,
                         struct capg_error **error);

/**
 * Empties the queue into the callback, oldest line first, on this thread, before it returns. Of more than 1024
 * waiting lines the oldest are lost, and the first line delivered says how many. Thread class: any.
 */
capg_status capg_log_deliver(const struct capg_log *log,
                             capg_log_callback callback,
                             void *user_data,
                             struct capg_error **error);

/**
 * Frees a log; does nothing for NULL. Models that were opened with it keep it alive. Thread class: free.
 */
void capg_log_free(struct capg_log *log);

/**
 * Converts the model at source (GGUF, any shard of a sharded one, or ONNX) to a full .cgraph file and, unless no_mini,
 * derives its mini. Files appear whole under their names or not at all; weights are stored without loss.
 *
 * target may be (NULL, 0): the source's name with .cgraph. options: nullable. summary (nullable) receives a JSON
 * object about the files written. Errors: IO, MALFORMED, UNSUPPORTED (a kind of model that cannot be run yet),
 * LIMIT (naming the smallest possible mini), CANCELLED; of an ONNX model those of running it
 * (capg_model_run) where its mini is measured. Thread class: any.
 */
capg_status capg_convert(const char *source,
                         size_t source_len,
                         const char *target,
                         size_t target_len,
                         const struct capg_convert_options *options,
                         struct capg_text **summary,
                         struct capg_error **error);

/**
 * Derives a mini from the full file. It appears whole under its name or not at all.
 *
 * mini may be (NULL, 0): the full file's name with .mini.cgraph. options: nullable. summary (nullable) receives a
 * JSON object with the plan. Errors: IO, MALFORMED, MISMATCH (not a full file), LIMIT (naming the smallest
 * possible mini), CANCELLED; of an ONNX model those of running it (capg_model_run) where its mini is measured. Thread class: any.
 */
capg_status capg_split(const char *full,
                       size_t full_len,
                       const char *mini,
                       size_t mini_len,
                       const struct capg_split_options *options,
                       struct capg_text **summary,
                       struct capg_error **error);

/**
 * Verifies a .cgraph file: structure, bounds, and that every edge of the graph is served; of a mini also its
 * links into the full file; with deep every checksum of both.
 *
 * options: nullable. problems (nullable) receives the number of problems, after the repair where one was made;
 * report (nullable) a JSON object that lists them. Problems found do not make the call fail. Errors: IO, MALFORMED
 * (the file itself cannot be read), MISMATCH (nothing to repair from), CANCELLED. Thread class: any.
 */
capg_status capg_verify(const char *path,
                        size_t path_len,
                        const struct capg_verify_options *options,
                        size_t *problems,
                        struct capg_text **report,
                        struct capg_error **error);

/**
 * The facts of a .cgraph file, of a GGUF model or of an ONNX model as a JSON object, read without opening it as a model.
 * details 1 lists every capsule (of a GGUF model every tensor; of an ONNX model the capsules that it would be cut into),
 * 0 does not. Errors: IO, MALFORMED, UNSUPPORTED, LIMIT. Thread class: any.
 */
capg_status capg_inspect(const char *path,
                         size_t path_len,
                         uint32_t details,
                         struct capg_text **report,
                         struct capg_error **error);

/**
 * The facts of capg_inspect about the file that the model was opened from. Thread class: any.
 */
capg_status capg_model_inspect(const struct capg_model *model,
                               uint32_t details,
                               struct capg_text **report,
                               struct capg_error **error);

/**
 * Opens a full file, or a mini together with its full file (in mode fast without it), of a language model or an ONNX
 * model. Weights are mapped, not read. The files must not be truncated or overwritten while the model lives.
 *
 * options: nullable. Errors: IO, MALFORMED, MISMATCH (the mode cannot be had from these files; mini and full do
 * not belong together), INVALID_ARGUMENT (a range of capsules that there is not), LIMIT (the budget), UNSUPPORTED.
 * Thread class: any.
 */
capg_status capg_model_open(const char *path,
                            size_t path_len,
                            const struct capg_model_options *options,
                            struct capg_model **model,
                            struct capg_error **error);

/**
 * As capg_model_open, with the file read by the host: all of it, into memory, inside this call. options.offset
 * and options.length must be 0; a mini needs its full file named in the options, unless the mode is fast.
 *
 * Errors: also HOST, with the number that the callback returned. Thread class: any.
 */
capg_status capg_model_open_reader(const struct capg_reader *reader,
                                   const struct capg_model_options *options,
                                   struct capg_model **model,
                                   struct capg_error **error);

/**
 * The mode in force: CAPG_MODE_EXACT, CAPG_MODE_FAST or CAPG_MODE_SPECULATIVE. Thread class: any.
 */
capg_status capg_model_mode(const struct capg_model *model, uint32_t *mode, struct capg_error **error);

/**
 * Why that mode was taken: a view, UTF-8, NUL-terminated, valid until the model is freed. Thread class: any.
 */
capg_status capg_model_mode_reason(const struct capg_model *model,
                                   const char **data,
                                   size_t *len,
                                   struct capg_error **error);

/**
 * The model's own name: a view, UTF-8, NUL-terminated, valid until the model is freed. Thread class: any.
 */
capg_status capg_model_name(const struct capg_model *model,
                            const char **data,
                            size_t *len,
                            struct capg_error **error);

/**
 * Tokens of the vocabulary: ids are below it, and it is the width of a row of logits. Errors: UNSUPPORTED of an ONNX model.
 * Thread class: any.
 */
capg_status capg_model_vocab_size(const struct capg_model *model,
                                  uint32_t *count,
                                  struct capg_error **error);

/**
 * Activations of a token between two capsules: the width of a row that capg_part_eval_activations takes. Errors:
 * UNSUPPORTED of an ONNX model. Thread class: any.
 */
capg_status capg_model_embedding_length(const struct capg_model *model,
                                        uint32_t *count,
                                        struct capg_error **error);

/**
 * Positions that the model was trained for. Errors: UNSUPPORTED of an ONNX model. Thread class: any.
 */
capg_status capg_model_context_length(const struct capg_model *model,
                                      uint32_t *count,
                                      struct capg_error **error);

/**
 * Threads that compute, the caller's included; fewer than were asked for where the system refused to start one. With
 * parallel_for the number that was asked for. Of an ONNX model those of ONNX Runtime, which is loaded where it was not.
 * Errors: those of loading it (capg_model_run). Thread class: any.
 */
capg_status capg_model_threads(const struct capg_model *model,
                               uint32_t *count,
                               struct capg_error **error);

/**
 * Anonymous memory that the model holds, in bytes: tables, the file where the host read it, and of an ONNX model what ONNX
 * Runtime holds for it between runs. Mapped files are the system's. Thread class: any.
 */
capg_status capg_model_held_bytes(const struct capg_model *model,
                                  uint64_t *bytes,
                                  struct capg_error **error);

/**
 * Whether the model has a chat template: 0 or 1. Errors: UNSUPPORTED of an ONNX model. Thread class: any.
 */
capg_status capg_model_has_chat_template(const struct capg_model *model,
                                         uint32_t *has,
                                         struct capg_error **error);

/**
 * Whether the model ends its answer with this token: 0 or 1. Errors: UNSUPPORTED where it has no tokenizer.
 * Thread class: any.
 */
capg_status capg_model_is_end_token(const struct capg_model *model,
                                    uint32_t id,
                                    uint32_t *is_end,
                                    struct capg_error **error);

/**
 * Frees a model; does nothing for NULL. Its sessions and capsules stay usable and keep it in memory.
 * Thread class: free.
 */
void capg_model_free(struct capg_model *model);

/**
 * Turns text into tokens. flags: CAPG_TOKENIZE_*. Errors: UNSUPPORTED where the model has no tokenizer, LIMIT for
 * text of 1 GiB and more. Thread class: any.
 */
capg_status capg_model_tokenize(const struct capg_model *model,
                                const char *text,
                                size_t text_len,
                                uint32_t flags,
                                struct capg_tokens **tokens,
                                struct capg_error **error);

/**
 * Turns tokens into text; bytes that form no character become U+FFFD. flags: CAPG_DETOKENIZE_*. Errors:
 * INVALID_ARGUMENT for ids out of range, UNSUPPORTED where the model has no tokenizer. Thread class: any.
 */
capg_status capg_model_detokenize(const struct capg_model *model,
                                  const uint32_t *ids,
                                  size_t count,
                                  uint32_t flags,
                                  struct capg_text **text,
                                  struct capg_error **error);

/**
 * A conversation as the model's own chat template writes it, with the beginning of the next answer. flags:
 * CAPG_CHAT_*. Errors: UNSUPPORTED where the model has no template, MALFORMED where the template fails.
 * Thread class: any.
 */
capg_status capg_model_chat_prompt(const struct capg_model *model,
                                   const struct capg_chat_message *messages,
                                   size_t count,
                                   uint32_t flags,
                                   struct capg_text **text,
                                   struct capg_error **error);

/**
 * A conversation as tokens, ready to be answered by capg_session_generate. Errors: as capg_model_chat_prompt.
 * Thread class: any.
 */
capg_status capg_model_chat_tokens(const struct capg_model *model,
                                   const struct capg_chat_message *messages,
                                   size_t count,
                                   struct capg_tokens **tokens,
                                   struct capg_error **error);

/**
 * Makes a session; it keeps its model alive. options: nullable. Errors: LIMIT where the KV cache does not fit memory or
 * budget, INVALID_ARGUMENT where the model was opened for a range of its capsules (capg_part_new). Thread class: any.
 */
capg_status capg_session_new(const struct capg_model *model,
                             const struct capg_session_options *options,
                             struct capg_session **session,
                             struct capg_error **error);

/**
 * Evaluates tokens after those that the session holds, and ends a generation in progress. capg_session_logits
 * then gives the logits of the last token, or with the flag CAPG_EVAL_ALL_LOGITS of every token, which takes
 * 4 * vocabulary bytes a token. cancel: nullable.
 *
 * Errors: INVALID_ARGUMENT for no tokens and for ids out of range, LIMIT where they do not fit the
 * context, or where the budget has no room or the system no memory for them, CANCELLED. After any error the session holds the
 * tokens that were through and can be used on. Thread class: one.
 */
capg_status capg_session_eval(const struct capg_session *session,
                              const uint32_t *ids,
                              size_t count,
                              uint32_t flags,
                              const struct capg_cancel *cancel,
                              struct capg_error **error);

/**
 * Logits of the last evaluation: rows * columns floats, row after row; a column a token of the vocabulary. Before
 * any evaluation there are 0 rows. A view, valid until the session's next call that is not a view. After a
 * generated token they are those that it was chosen from, with its penalties. Thread class: one.
 */
capg_status capg_session_logits(const struct capg_session *session,
                                const float **data,
                                size_t *rows,
                                size_t *columns,
                                struct capg_error **error);

/**
 * The tokens that the session holds. A view, valid until the session's next call that is not a view.
 * Thread class: one.
 */
capg_status capg_session_tokens(const struct capg_session *session,
                                const uint32_t **ids,
                                size_t *count,
                                struct capg_error **error);

/**
 * Positions that the session has room for. Thread class: any.
 */
capg_status capg_session_context(const struct capg_session *session,
                                 size_t *count,
                                 struct capg_error **error);

/**
 * Forgets every token from position count on, and a generation in progress. A count past the end keeps all
 * tokens. Thread class: one.
 */
capg_status capg_session_truncate(const struct capg_session *session,
                                  size_t count,
                                  struct capg_error **error);

/**
 * Forgets all tokens, and a generation in progress. Thread class: one.
 */
capg_status capg_session_reset(const struct capg_session *session, struct capg_error **error);

/**
 * What the session did and cost, as a JSON object ("schema": "capsulegraph.report/1"): mode and why, times,
 * memory, capsules, text and tokens of the last generation. Thread class: one.
 */
capg_status capg_session_report(const struct capg_session *session,
                                struct capg_text **report,
                                struct capg_error **error);

/**
 * Frees a session; does nothing for NULL. Thread class: free.
 */
void capg_session_free(struct capg_session *session);

/**
 * Generates after this prompt: each token and its text goes through the callback as it is chosen, until the
 * model ends its text, a limit of the options is reached, or the callback returns other than 0. What the session
 * holds of the same prefix is not evaluated again, so a conversation may be given anew each turn.
 *
 * options, callback, cancel and finish_reason (CAPG_FINISH_*) are nullable. Errors: INVALID_ARGUMENT (no tokens, an
 * id or option out of range), LIMIT (the prompt does not fit the context), CANCELLED (after a reset of the token
 * capg_session_advance goes on), BUSY. Thread class: one.
 */
capg_status capg_session_generate(const struct capg_session *session,
                                  const uint32_t *ids,
                                  size_t count,
                                  const struct capg_generate_options *options,
                                  capg_token_callback callback,
                                  void *user_data,
                                  const struct capg_cancel *cancel,
                                  uint32_t *finish_reason,
                                  struct capg_error **error);

/**
 * Begins a generation after this prompt without computing anything; capg_session_advance does the work. options:
 * nullable. Errors: as capg_session_generate. Thread class: one.
 */
capg_status capg_session_start(const struct capg_session *session,
                               const uint32_t *ids,
                               size_t count,
                               const struct capg_generate_options *options,
                               struct capg_error **error);

/**
 * Goes on with the generation for about max_microseconds and for max_tokens at most (0 each: no limit), and fills
 * slice with what became complete meanwhile. It pauses inside a capsule too, at most a millisecond of compute late,
 * and takes up its work exactly there: the tokens are the same however they are sliced. Less than 100 microseconds
 * count as 100.
 *
 * cancel: nullable. After CANCELLED nothing is lost: what the slice had produced comes with the next one. After the
 * end every further call gives an empty slice with the same finish_reason. Errors: INVALID_ARGUMENT where no
 * generation is in progress, CANCELLED, BUSY. Thread class: one.
 */
capg_status capg_session_advance(const struct capg_session *session,
                                 uint64_t max_microseconds,
                                 size_t max_tokens,
                                 const struct capg_cancel *cancel,
                                 struct capg_slice *slice,
                                 struct capg_error **error);

/**
 * What became complete of a generation that capg_group_advance went on with, since the last slice. Errors:
 * INVALID_ARGUMENT where there is no generation, BUSY. Thread class: one.
 */
capg_status capg_session_slice(const struct capg_session *session,
                               struct capg_slice *slice,
                               struct capg_error **error);

/**
 * Makes a group. Thread class: any.
 */
capg_status capg_group_new(struct capg_group **group, struct capg_error **error);

/**
 * Goes on with the generations of these sessions, which capg_session_start began, for about max_microseconds and for
 * max_tokens tokens of each at most (0 each: no limit), one pass over the weights for all of them. Each has the tokens
 * that it would have alone; capg_session_slice gives what came of it. running: how many are not at their end; nullable.
 *
 * cancel: nullable. After CANCELLED nothing is lost. Errors: INVALID_ARGUMENT (a session without a generation, one named
 * twice, sessions of several models), LIMIT (the budget), CANCELLED, BUSY. Thread class: one.
 */
capg_status capg_group_advance(const struct capg_group *group,
                               const struct capg_session *const *sessions,
                               size_t count,
                               uint64_t max_microseconds,
                               size_t max_tokens,
                               const struct capg_cancel *cancel,
                               size_t *running,
                               struct capg_error **error);

/**
 * Frees a group; does nothing for NULL. Thread class: free.
 */
void capg_group_free(struct capg_group *group);

/**
 * Makes a part; it keeps its model alive. options: nullable. Errors: LIMIT where the KV cache does not fit memory or
 * budget. Thread class: any.
 */
capg_status capg_part_new(const struct capg_model *model,
                          const struct capg_part_options *options,
                          struct capg_part **part,
                          struct capg_error **error);

/**
 * Evaluates tokens after those that the part has evaluated; capg_part_output then gives what came of it. Only a part
 * that begins with capsule 0 takes token ids. flags: CAPG_EVAL_ALL_LOGITS, for the part that has the head; others leave
 * it aside. All tokens are one batch. cancel: nullable.
 *
 * Errors: INVALID_ARGUMENT for no tokens, for ids out of range and for a part that takes activations, LIMIT where they
 * do not fit the context, the budget or the system's memory, CANCELLED. After any error the part has the positions that
 * it had, and no output. Thread class: one.
 */
capg_status capg_part_eval(const struct capg_part *part,
                           const uint32_t *ids,
                           size_t count,
                           uint32_t flags,
                           const struct capg_cancel *cancel,
                           struct capg_error **error);

/**
 * As capg_part_eval, with what the part before gave: rows * columns floats, row after row, one row a token, columns the
 * model's embedding length. Only a part that begins behind capsule 0 takes activations. The output of another
 * part in this process may be handed in as it is.
 *
 * Errors: also INVALID_ARGUMENT for another number of columns and for values that are not finite. Thread class: one.
 */
capg_status capg_part_eval_activations(const struct capg_part *part,
                                       const float *data,
                                       size_t rows,
                                       size_t columns,
                                       uint32_t flags,
                                       const struct capg_cancel *cancel,
                                       struct capg_error **error);

/**
 * What the last evaluation gave: rows * columns floats, row after row. Of a part that has the head logits, a column a
 * token of the vocabulary; of any other activations, a row a token, for capg_part_eval_activations of the part behind. 0
 * rows before any evaluation, after one that failed, and after capg_part_truncate. A view, valid until the part's next
 * call that is not a view. Thread class: one.
 */
capg_status capg_part_output(const struct capg_part *part,
                             const float **data,
                             size_t *rows,
                             size_t *columns,
                             struct capg_error **error);

/**
 * Positions that the part has evaluated. Thread class: one.
 */
capg_status capg_part_len(const struct capg_part *part, size_t *count, struct capg_error **error);

/**
 * Forgets every position from count on, and the output. A count past the end keeps all positions. Thread class: one.
 */
capg_status capg_part_truncate(const struct capg_part *part,
                               size_t count,
                               struct capg_error **error);

/**
 * Frees a part; does nothing for NULL. Thread class: free.
 */
void capg_part_free(struct capg_part *part);

/**
 * Number of outputs. Thread class: any.
 */
capg_status capg_values_count(const struct capg_values *values, size_t *count, struct capg_error **error);

/**
 * Fills value with a view of output number index, in the order in which the outputs were asked for; valid until values is
 * freed. Strings in it are followed by a NUL that their length does not count. Errors: NOT_FOUND. Thread class: any.
 */
capg_status capg_values_view(const struct capg_values *values,
                             size_t index,
                             struct capg_value *value,
                             struct capg_error **error);

/**
 * Frees the outputs of a run; does nothing for NULL. Thread class: free.
 */
void capg_values_free(struct capg_values *values);

/**
 * Number of inputs or outputs of an ONNX model. direction: CAPG_PORT_*. Errors: UNSUPPORTED of a language model. Thread
 * class: any.
 */
capg_status capg_model_port_count(const struct capg_model *model,
                                  uint32_t direction,
                                  size_t *count,
                                  struct capg_error **error);

/**
 * Fills port with what the model says of input or output number index, in its own order. Errors: NOT_FOUND, UNSUPPORTED of a
 * language model. Thread class: any.
 */
capg_status capg_model_port(const struct capg_model *model,
                            uint32_t direction,
                            size_t index,
                            struct capg_port *port,
                            struct capg_error **error);

/**
 * Computes outputs of an ONNX model from inputs by name. outputs: the names of those that are wanted, which
 * capg_values_view then gives in that order; (NULL, 0): all, in the model's order. Only the
 * capsules that they need are computed, and only the inputs that these need must be given. options, cancel: nullable.
 *
 * Inputs are read where they are and not copied, but for strings, sequences, maps, and data at an address that is no
 * multiple of the element's size; they must not change during the call. What comes out is owned by values, and is not copied
 * either. Any number of threads may run one model at the same time. The first run loads ONNX Runtime.
 *
 * Errors: INVALID_ARGUMENT for names, types, ranks and lengths that are not the model's or do not fit together, and for inputs
 * that are missing or given twice; NOT_FOUND and UNSUPPORTED where there is no usable ONNX Runtime, with the places that were
 * searched; MISMATCH where it refuses graph or inputs, with its message; LIMIT (the budget), CANCELLED; UNSUPPORTED of a
 * language model. Thread class: any.
 */
capg_status capg_model_run(const struct capg_model *model,
                           const struct capg_value *inputs,
                           size_t inputs_len,
                           const struct capg_string *outputs,
                           size_t outputs_len,
                           const struct capg_run_options *options,
                           const struct capg_cancel *cancel,
                           struct capg_values **values,
                           struct capg_error **error);

/**
 * The report of an ONNX model up to now, schema capsulegraph.report/1: times, memory, what is prepacked, ONNX Runtime's
 * version. Errors: UNSUPPORTED of a language model, whose sessions have reports. Thread class: any.
 */
capg_status capg_model_report(const struct capg_model *model,
                              struct capg_text **report,
                              struct capg_error **error);

/**
 * Number of capsules, in the order of computation. Thread class: any.
 */
capg_status capg_model_capsule_count(const struct capg_model *model,
                                     size_t *count,
                                     struct capg_error **error);

/**
 * The id of capsule number index, such as "block.0.attn": a view, UTF-8, NUL-terminated, valid until the model is
 * freed. Errors: NOT_FOUND. Thread class: any.
 */
capg_status capg_model_capsule_id(const struct capg_model *model,
                                  size_t index,
                                  const char **data,
                                  size_t *len,
                                  struct capg_error **error);

/**
 * Takes a capsule out: as the mini holds it in mode fast, at full precision in every other mode. Every tensor is held
 * against its checksum. layout: CAPG_LAYOUT_*. Errors: NOT_FOUND, CORRUPT naming the tensor, LIMIT (the budget). Thread
 * class: any.
 */
capg_status capg_model_fetch(const struct capg_model *model,
                             const char *id,
                             size_t id_len,
                             uint32_t layout,
                             struct capg_capsule **capsule,
                             struct capg_error **error);

/**
 * What the capsule came as: "full", "pinned" (bit for bit, out of the mini), "light" (the mini's copy of lower precision)
 * or "nested" (the mini's first planes). A view, UTF-8, NUL-terminated, valid until the capsule is freed. Thread class:
 * any.
 */
capg_status capg_capsule_precision(const struct capg_capsule *capsule,
                                   const char **data,
                                   size_t *len,
                                   struct capg_error **error);

/**
 * Number of tensors, in the order of use. Thread class: any.
 */
capg_status capg_capsule_tensor_count(const struct capg_capsule *capsule,
                                      size_t *count,
                                      struct capg_error **error);

/**
 * Tensor number index. Errors: NOT_FOUND. Thread class: any.
 */
capg_status capg_capsule_tensor(const struct capg_capsule *capsule,
                                size_t index,
                                struct capg_tensor_view *tensor,
                                struct capg_error **error);

/**
 * Frees a capsule; does nothing for NULL. Thread class: free.
 */
void capg_capsule_free(struct capg_capsule *capsule);

/**
 * Begins to take capsules out, in this order, on a thread of its own; each as capg_model_fetch does. Errors: NOT_FOUND for
 * an id that does not exist, LIMIT where the system starts no thread. Thread class: any.
 */
capg_status capg_model_fetch_begin(const struct capg_model *model,
                                   const struct capg_string *ids,
                                   size_t count,
                                   uint32_t layout,
                                   struct capg_fetch **fetch,
                                   struct capg_error **error);

/**
 * How many of the capsules have come by now; a failure counts as one, and ends the rest. Never waits. Thread class: any.
 */
capg_status capg_fetch_poll(const struct capg_fetch *fetch,
                            size_t *come,
                            struct capg_error **error);

/**
 * Takes capsule number index of those that were asked for; once. Errors: BUSY where it has not come yet, NOT_FOUND past
 * the end, the second time, or behind one that failed, and those of capg_model_fetch. Thread class: any.
 */
capg_status capg_fetch_take(const struct capg_fetch *fetch,
                            size_t index,
                            struct capg_capsule **capsule,
                            struct capg_error **error);

/**
 * Says that these capsules, by number, are needed next, so that the system may bring them in meanwhile. Only a hint; numbers
 * past the end are ignored. Thread class: any.
 */
capg_status capg_model_prefetch(const struct capg_model *model,
                                const size_t *capsules,
                                size_t count,
                                struct capg_error **error);

/**
 * Frees a fetch; does nothing for NULL. Capsules that have not come are given up; the one that is on its way is waited
 * for. Thread class: free.
 */
void capg_fetch_free(struct capg_fetch *fetch);

/**
 * Writes the ONNX model at target that the full file at source was converted from: its inputs, outputs and weights are the
 * source's. Weights lie in the model up to about 1.8 GB, else beside it in a file named as target with .data behind it. Files
 * appear whole under their names or not at all.
 *
 * cancel: nullable. summary (nullable) receives a JSON object about the files written. Errors: IO, MALFORMED, UNSUPPORTED (no
 * ONNX model), MISMATCH (a mini), CORRUPT, CANCELLED. Thread class: any.
 */
capg_status capg_export(const char *source,
                        size_t source_len,
                        const char *target,
                        size_t target_len,
                        const struct capg_cancel *cancel,
                        struct capg_text **summary,
                        struct capg_error **error);

/**
 * Writes what a capsule of an ONNX model computes to target, as an ONNX model of its own with its weights: as the mini has it
 * in mode fast, at full precision in every other mode. cancel, summary and weights of more than 1.8 GB: as for capg_export.
 * Errors: NOT_FOUND (no such capsule, or in mode fast a weight that the mini only links), and those of capg_export. Thread
 * class: any.
 */
capg_status capg_model_export_capsule(const struct capg_model *model,
                                      const char *id,
                                      size_t id_len,
                                      const char *target,
                                      size_t target_len,
                                      const struct capg_cancel *cancel,
                                      struct capg_text **summary,
                                      struct capg_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CAPSULEGRAPH_H */
