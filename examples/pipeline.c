/* One model in two processes, on one machine or two: each holds half of the capsules.
 *
 *     cc -I include examples/pipeline.c -L target/release -lcapsulegraph -Wl,-rpath,"$PWD/target/release" -o pipeline
 *     ./pipeline last model.cgraph 7070                                     # prints the port; 0: a free one
 *     ./pipeline first model.cgraph localhost 7070 "Once upon a time" 64    # at most 64 tokens
 *
 * The first sends the activations behind its half over TCP, the last answers with the next token, the likeliest. The
 * text is that of one process. The last serves one conversation and ends. Neither side proves who it is, and nothing is
 * encrypted: use it inside a network that you trust.
 *
 * A message is a head of 16 bytes, kind, rows, columns and a number, each 32 bits with the lowest byte first, and
 * rows * columns such words: for activations the bits of floats.
 */
#define _POSIX_C_SOURCE 200809L
#include <capsulegraph.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HELLO = 0x30475043,       /* columns: the model's width, the number: its capsules */
    ACTIVATIONS = 0x31475043, /* rows of the model's width */
    TOKEN = 0x32475043,       /* the number is the token */
    CONTEXT = 2048,           /* positions of both sides, and rows of a message at most */
    TOKENS = 64,
    WORDS_AT_ONCE = 4096
};

typedef struct {
    uint32_t kind, rows, columns, number;
} head;

/* Half of a model. */
typedef struct {
    capg_model *model;
    capg_part *part;
    uint32_t capsules, cut, width;
} half;

static capg_error *error = NULL;

static int failed(const char *what, const char *why, const char *todo) {
    fprintf(stderr, "pipeline: %s: %s; %s\n", what, why, todo);
    return 0;
}

/* Whether a call of the library went well; prints its message otherwise. */
static int done(capg_status status) {
    if (status == CAPG_OK) return 1;
    fprintf(stderr, "pipeline: %s\n", capg_error_message(error, NULL));
    capg_error_free(error);
    error = NULL;
    return 0;
}

static int send_all(int peer, const unsigned char *bytes, size_t len) {
    while (len > 0) {
        ssize_t sent = send(peer, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return failed("cannot send", strerror(errno), "see what the other process printed");
        bytes += sent;
        len -= (size_t)sent;
    }
    return 1;
}

/* Fills all of it. Returns -1 where the peer closed before the first byte, 0 after an error. */
static int receive_all(int peer, unsigned char *bytes, size_t len) {
    size_t come = 0;
    while (come < len) {
        ssize_t got = recv(peer, bytes + come, len - come, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return failed("cannot receive", strerror(errno), "see what the other process printed");
        if (got == 0 && come == 0) return -1;
        if (got == 0) return failed("a message ends early", "the other side closed", "see what it printed");
        come += (size_t)got;
    }
    return 1;
}

static void put(unsigned char *bytes, uint32_t word) {
    for (int i = 0; i < 4; i++) bytes[i] = (unsigned char)(word >> 8 * i);
}

static uint32_t get(const unsigned char *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static int send_message(int peer, head h, const float *values) {
    unsigned char bytes[4 * WORDS_AT_ONCE];
    put(bytes, h.kind);
    put(bytes + 4, h.rows);
    put(bytes + 8, h.columns);
    put(bytes + 12, h.number);
    if (!send_all(peer, bytes, 16)) return 0;
    for (size_t left = (size_t)h.rows * h.columns; left > 0;) {
        size_t now = left < WORDS_AT_ONCE ? left : WORDS_AT_ONCE;
        for (size_t i = 0; i < now; i++) {
            uint32_t word;
            memcpy(&word, values + i, 4);
            put(bytes + 4 * i, word);
        }
        if (!send_all(peer, bytes, 4 * now)) return 0;
        values += now;
        left -= now;
    }
    return 1;
}

/* A head of this kind; nothing else is accepted. Returns -1 where the peer closed instead. */
static int receive_head(int peer, uint32_t kind, head *h) {
    unsigned char bytes[16];
    int got = receive_all(peer, bytes, sizeof bytes);
    if (got != 1) return got;
    h->kind = get(bytes);
    h->rows = get(bytes + 4);
    h->columns = get(bytes + 8);
    h->number = get(bytes + 12);
    return h->kind == kind || failed("a message", "unknown kind", "is the other side this program, of this version?");
}

/* The floats of a message whose sizes were checked. */
static int receive_values(int peer, float *values, size_t count) {
    unsigned char bytes[4 * WORDS_AT_ONCE];
    while (count > 0) {
        size_t now = count < WORDS_AT_ONCE ? count : WORDS_AT_ONCE;
        int got = receive_all(peer, bytes, 4 * now);
        if (got < 0) return failed("a message ends early", "the other side closed", "see what it printed");
        if (got == 0) return 0;
        for (size_t i = 0; i < now; i++) {
            uint32_t word = get(bytes + 4 * i);
            memcpy(values + i, &word, 4);
        }
        values += now;
        count -= now;
    }
    return 1;
}

/* Opens the first half of the capsules, or the last. Opening maps a file: what is not computed with is not read. */
static int open_half(const char *path, int last, half *h) {
    capg_model_options options;
    capg_part_options room;
    capg_model *model = NULL;
    size_t capsules = 0;
    int ok = done(capg_model_open(path, strlen(path), NULL, &model, &error))
        && done(capg_model_capsule_count(model, &capsules, &error))
        && done(capg_model_embedding_length(model, &h->width, &error));
    capg_model_free(model);
    h->capsules = (uint32_t)capsules;
    h->cut = h->capsules / 2;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.first_capsule = last ? h->cut : 0;
    options.end_capsule = last ? h->capsules : h->cut;
    memset(&room, 0, sizeof room);
    room.struct_size = sizeof room;
    room.context = CONTEXT;
    return ok && done(capg_model_open(path, strlen(path), &options, &h->model, &error))
        && done(capg_part_new(h->model, &room, &h->part, &error));
}

/* Both sides have the same model, divided in the same place. */
static int greet(int peer, const half *own) {
    head mine = {HELLO, 0, own->width, own->capsules}, other;
    if (!send_message(peer, mine, NULL)) return 0;
    int got = receive_head(peer, HELLO, &other);
    if (got < 0) return failed("no greeting", "the other side closed", "see what it printed");
    if (got == 0) return 0;
    return (other.rows == 0 && other.columns == mine.columns && other.number == mine.number)
        || failed("the other side", "another model", "give both processes the same file");
}

/* Whether the text is a number in this range. */
static int is_number(const char *text, unsigned long least, unsigned long most, unsigned long *number) {
    char *end;
    *number = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == 0 && *number >= least && *number <= most;
}

static void promptly(int peer) {
    int on = 1; /* a message is small and waited for */
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* A socket that one process can connect to; prints its port. -1 after an error. */
static int await_peer(const char *port) {
    unsigned long number;
    if (!is_number(port, 0, 65535, &number))
        return failed("port", port, "name a number from 0 to 65535") - 1;
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    address.sin_port = htons((uint16_t)number);
    int on = 1, peer = -1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener >= 0) setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0
        || getsockname(listener, (struct sockaddr *)&address, &len) != 0) {
        failed("cannot listen on that port", strerror(errno), "name another one, or 0 for a free one");
    } else {
        printf("port %u\n", (unsigned)ntohs(address.sin_port));
        fflush(stdout);
        do peer = accept(listener, NULL, NULL);
        while (peer < 0 && (errno == EINTR || errno == ECONNABORTED));
        if (peer < 0) failed("cannot accept a connection", strerror(errno), "start again");
        else promptly(peer);
    }
    if (listener >= 0) close(listener);
    return peer;
}

/* A connection to the last; -1 after an error. */
static int find_peer(const char *host, const char *port) {
    struct addrinfo wanted, *found = NULL;
    memset(&wanted, 0, sizeof wanted);
    wanted.ai_family = AF_INET;
    wanted.ai_socktype = SOCK_STREAM;
    int problem = getaddrinfo(host, port, &wanted, &found), peer = -1;
    if (problem != 0) return failed(host, gai_strerror(problem), "name the machine of the last process and its port") - 1;
    for (struct addrinfo *a = found; a != NULL && peer < 0; a = a->ai_next) {
        peer = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (peer < 0 || connect(peer, a->ai_addr, a->ai_addrlen) == 0) continue;
        int why = errno;
        close(peer);
        errno = why;
        peer = -1;
    }
    if (peer < 0) failed("cannot connect", strerror(errno), "start `pipeline last` first, and name the port that it prints");
    else promptly(peer);
    freeaddrinfo(found);
    return peer;
}

/* Activations in, the likeliest token out, until the first closes the connection. */
static int serve(int peer, const half *own) {
    float *values = (float *)malloc((size_t)CONTEXT * own->width * sizeof *values);
    if (values == NULL) return failed("memory", "there is none", "close other programs");
    int ok = greet(peer, own);
    while (ok) {
        head h;
        const float *logits;
        size_t rows, columns;
        int got = receive_head(peer, ACTIVATIONS, &h);
        if (got < 0) break; /* the end */
        ok = got == 1
            && ((h.rows >= 1 && h.rows <= CONTEXT && h.columns == own->width)
                || failed("a message", "wrong size", "is the other side this program, of this version?"))
            && receive_values(peer, values, (size_t)h.rows * h.columns)
            && done(capg_part_eval_activations(own->part, values, h.rows, h.columns, 0, NULL, &error))
            && done(capg_part_output(own->part, &logits, &rows, &columns, &error));
        if (!ok) break;
        uint32_t best = 0;
        for (uint32_t i = 1; i < columns; i++)
            if (logits[i] > logits[best]) best = i;
        const head answer = {TOKEN, 0, 0, best};
        ok = send_message(peer, answer, NULL);
    }
    free(values);
    return ok;
}

/* Prints what is complete of the text behind the first `skip` tokens; `printed` bytes of all of it are done with. */
static int print(const half *own, const uint32_t *ids, size_t count, int end, size_t *printed) {
    capg_text *text = NULL;
    const char *data;
    size_t len;
    int ok = done(capg_model_detokenize(own->model, ids, count, 0, &text, &error))
        && done(capg_text_view(text, &data, &len, &error));
    /* A character whose bytes have not all come is U+FFFD so far. */
    if (ok && !end)
        while (len >= *printed + 3 && memcmp(data + len - 3, "\xEF\xBF\xBD", 3) == 0) len -= 3;
    if (ok && len > *printed) {
        fwrite(data + *printed, 1, len - *printed, stdout);
        fflush(stdout);
        *printed = len;
    }
    capg_text_free(text);
    return ok;
}

/* The prompt's tokens and those that come back for them, until the model ends or there are enough. */
static int ask(int peer, const half *own, const char *prompt, size_t most) {
    static uint32_t ids[CONTEXT];
    capg_tokens *tokens = NULL;
    capg_text *text = NULL;
    const uint32_t *first;
    const char *data;
    size_t count = 0, passed = 0, printed = 0;
    int ok = greet(peer, own)
        && done(capg_model_tokenize(own->model, prompt, strlen(prompt), CAPG_TOKENIZE_ADD_SPECIAL, &tokens, &error))
        && done(capg_tokens_view(tokens, &first, &count, &error))
        && ((count >= 1 && count < CONTEXT) || failed("the prompt", "empty or too long", "give another one"));
    if (ok) memcpy(ids, first, count * sizeof *ids);
    ok = ok && done(capg_model_detokenize(own->model, ids, count, 0, &text, &error))
        && done(capg_text_view(text, &data, &printed, &error)); /* the prompt is not printed */
    uint32_t ended = 0;
    for (size_t i = 0; ok && i < most && count < CONTEXT && !ended; i++) {
        const float *values;
        size_t rows, columns;
        ok = done(capg_part_eval(own->part, ids + passed, count - passed, 0, NULL, &error))
            && done(capg_part_output(own->part, &values, &rows, &columns, &error));
        if (!ok) break;
        head h = {ACTIVATIONS, (uint32_t)rows, (uint32_t)columns, 0};
        ok = send_message(peer, h, values);
        int got = ok ? receive_head(peer, TOKEN, &h) : 0;
        if (got < 0) failed("no token", "the other side closed", "see what it printed");
        ok = got == 1 && done(capg_model_is_end_token(own->model, h.number, &ended, &error));
        if (!ok) break;
        passed = count;
        ids[count++] = h.number;
        ok = print(own, ids, count, 0, &printed);
    }
    if (ok) print(own, ids, count, 1, &printed);
    puts("");
    capg_text_free(text);
    capg_tokens_free(tokens);
    return ok;
}

int main(int argc, char **argv) {
    const int last = argc == 4 && strcmp(argv[1], "last") == 0;
    if (!last && !((argc == 6 || argc == 7) && strcmp(argv[1], "first") == 0)) {
        fprintf(stderr, "usage: %s last MODEL PORT\n       %s first MODEL HOST PORT PROMPT [TOKENS]\n", argv[0], argv[0]);
        return 2;
    }
    unsigned long most = TOKENS;
    if (argc == 7 && !is_number(argv[6], 1, CONTEXT, &most))
        return failed("TOKENS", argv[6], "name a number from 1 to 2048") + 1;
    half own;
    memset(&own, 0, sizeof own);
    int ok = open_half(argv[2], last, &own);
    if (ok) {
        int peer = last ? await_peer(argv[3]) : find_peer(argv[3], argv[4]);
        ok = peer >= 0 && (last ? serve(peer, &own) : ask(peer, &own, argv[5], most));
        if (peer >= 0) close(peer);
    }
    capg_part_free(own.part);
    capg_model_free(own.model);
    return ok ? 0 : 1;
}
