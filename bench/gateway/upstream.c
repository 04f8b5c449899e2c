/* The engine that every peer of the gateway benchmark is put in front of: as fast as one thread can answer.
 *
 *     upstream UNIX_PATH TCP_PORT TICK_US TICKS_PER_TOKEN
 *
 * It speaks just enough HTTP/1.1 to be a well-behaved engine: keep-alive, Content-Length bodies, one request at a
 * time on a connection. A POST is a chat completion: 350 bytes of JSON, or, if its body asks for a stream, as many
 * events as `max_tokens` says, each in a chunk and a write of its own, as vLLM sends them; usage in the last event
 * (`include_usage`) or in each (`continuous_usage_stats`). Tokens come every TICKS_PER_TOKEN ticks, the streams spread
 * evenly over the ticks; a stream of HELD tokens or more falls silent after SHOWN, until its client leaves.
 * GET /stats tells what it has done; any other GET answers 200 (health, models).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 16384, EVENTS = 512, PROMPT_TOKENS = 24, HELD = 100000, SHOWN = 10 };

struct connection {
    int fd;
    size_t held;                 /* bytes in `input` */
    size_t owed, owed_at;        /* bytes of `output` that the peer has not taken yet */
    char *output;
    int tokens, sent;            /* of the stream; tokens == 0: none */
    bool include_usage, continuous_usage;
    unsigned phase;
    struct connection *next, **link;
    char input[BUFFER];
};

static struct connection *streams;
static unsigned long requests, stream_count, chunks, open_connections, malformed;
static unsigned tick, ticks_per_token = 1, phases;
static int poller;
static char answer[1024];
static size_t answer_length;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void prepare_answer(void) {
    char body[512];
    int length = snprintf(
        body, sizeof body,
        "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the "
        "lazy dog, again.\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":%d,"
        "\"total_tokens\":36,\"completion_tokens\":12,\"prompt_tokens_details\":null}}",
        PROMPT_TOKENS);
    answer_length = (size_t)snprintf(
        answer, sizeof answer,
        "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", length, body);
}

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event) < 0) die("epoll_ctl");
}

static void end_stream(struct connection *c) {
    if (!c->tokens) return;
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    c->tokens = 0;
}

static void drop(struct connection *c) {
    end_stream(c);
    close(c->fd);
    free(c->output);
    free(c);
    open_connections--;
}

/* Writes, or keeps what the peer does not take; false when the connection is gone. */
static bool send_all(struct connection *c, const char *data, size_t length) {
    ssize_t written = 0;
    if (!c->owed) {
        written = write(c->fd, data, length);
        if (written < 0 && errno != EAGAIN) return false;
        if (written < 0) written = 0;
    }
    size_t rest = length - (size_t)written;
    if (!rest) return true;
    char *grown = malloc(c->owed + rest);
    if (!grown) die("malloc");
    if (c->owed) memcpy(grown, c->output + c->owed_at, c->owed);
    memcpy(grown + c->owed, data + written, rest);
    free(c->output);
    c->output = grown;
    c->owed_at = 0;
    c->owed += rest;
    watch(c, EPOLLIN | EPOLLOUT);
    return true;
}

static bool flush(struct connection *c) {
    ssize_t written = write(c->fd, c->output + c->owed_at, c->owed);
    if (written < 0) return errno == EAGAIN;
    c->owed_at += (size_t)written;
    c->owed -= (size_t)written;
    if (!c->owed) watch(c, EPOLLIN);
    return true;
}

static bool send_event(struct connection *c, const char *event, size_t length) {
    char framed[768];
    int size = snprintf(framed, sizeof framed, "%zx\r\n%.*s\r\n", length, (int)length, event);
    chunks++;
    return send_all(c, framed, (size_t)size);
}

static int usage_member(char *at, size_t room, int tokens) {
    return snprintf(at, room, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d}",
                    PROMPT_TOKENS, PROMPT_TOKENS + tokens, tokens);
}

#define CHUNK_HEAD                                                                                                   \
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"         \
    "\"model\":\"bench\",\"choices\":["

static bool send_token(struct connection *c) {
    char event[512];
    bool last = c->sent + 1 == c->tokens;
    int at = snprintf(event, sizeof event,
                      CHUNK_HEAD "{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"logprobs\":null,\"finish_reason\":%s}]",
                      c->sent % 10, last ? "\"length\"" : "null");
    c->sent++;
    if (c->continuous_usage) at += usage_member(event + at, sizeof event - (size_t)at, c->sent);
    at += snprintf(event + at, sizeof event - (size_t)at, "}\n\n");
    if (!send_event(c, event, (size_t)at)) return false;
    if (!last) return true;
    if (c->include_usage) {
        at = snprintf(event, sizeof event, CHUNK_HEAD "]");
        at += usage_member(event + at, sizeof event - (size_t)at, c->sent);
        at += snprintf(event + at, sizeof event - (size_t)at, "}\n\n");
        if (!send_event(c, event, (size_t)at)) return false;
    }
    end_stream(c);
    static const char done[] = "data: [DONE]\n\n";
    return send_event(c, done, sizeof done - 1) && send_all(c, "0\r\n\r\n", 5);
}

static bool begin_stream(struct connection *c, const char *body) {
    static const char head[] = "HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                               "x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n";
    const char *limit = strstr(body, "\"max_tokens\":");
    c->tokens = limit ? atoi(limit + strlen("\"max_tokens\":")) : 16;
    if (c->tokens < 1) c->tokens = 1;
    c->sent = 0;
    c->include_usage = strstr(body, "\"include_usage\":true") || strstr(body, "\"include_usage\": true");
    c->continuous_usage =
        strstr(body, "\"continuous_usage_stats\":true") || strstr(body, "\"continuous_usage_stats\": true");
    c->phase = phases++ % ticks_per_token;
    c->next = streams;
    c->link = &streams;
    if (streams) streams->link = &c->next;
    streams = c;
    stream_count++;
    return send_all(c, head, sizeof head - 1);
}

static bool tell(struct connection *c, const char *path) {
    char body[256], whole[512];
    int length = strncmp(path, "/stats ", 7) == 0
                     ? snprintf(body, sizeof body,
                                "{\"requests\":%lu,\"streams\":%lu,\"chunks\":%lu,\"connections\":%lu,\"malformed\":%lu}",
                                requests, stream_count, chunks, open_connections, malformed)
                     : snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"}]}");
    int size = snprintf(whole, sizeof whole,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", length, body);
    return send_all(c, whole, (size_t)size);
}

/* Answers the request at the beginning of the input, if it is whole; false when the connection is to end. */
static bool take_request(struct connection *c) {
    c->input[c->held] = '\0';
    char *end = strstr(c->input, "\r\n\r\n");
    if (!end) return c->held < BUFFER - 1;
    *end = '\0';
    const char *length = strcasestr(c->input, "\r\ncontent-length:");
    size_t head = (size_t)(end - c->input) + 4, body = length ? strtoul(length + 17, NULL, 10) : 0;
    if (strcasestr(c->input, "\r\ntransfer-encoding:") || head + body > BUFFER - 1) {
        malformed++;
        return false;
    }
    *end = '\r';
    if (c->held < head + body) return true;
    if (c->held > head + body) {
        malformed++; /* nobody pipelines to an engine */
        return false;
    }
    c->held = 0;
    if (strncmp(c->input, "POST ", 5) != 0) return tell(c, c->input + 4);
    requests++;
    const char *content = c->input + head;
    if (strstr(content, "\"stream\":true") || strstr(content, "\"stream\": true")) return begin_stream(c, content);
    return send_all(c, answer, answer_length);
}

static bool receive(struct connection *c) {
    ssize_t count = read(c->fd, c->input + c->held, BUFFER - 1 - c->held);
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    c->held += (size_t)count;
    return take_request(c);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* refused on a unix socket: nothing to do there */
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
        open_connections++;
    }
}

static void send_tokens(int timer) {
    uint64_t passed;
    if (read(timer, &passed, sizeof passed) < 0) return;
    while (passed--) {
        tick++;
        struct connection *next;
        for (struct connection *c = streams; c; c = next) {
            next = c->next;
            if (c->tokens >= HELD && c->sent == SHOWN) continue;
            if (tick % ticks_per_token == c->phase && !send_token(c)) drop(c);
        }
    }
}

static int listen_on(int family, const struct sockaddr *address, socklen_t length) {
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, address, length) < 0 || listen(fd, 4096) < 0) die("listen");
    return fd;
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: upstream UNIX_PATH TCP_PORT TICK_US TICKS_PER_TOKEN\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    prepare_answer();
    ticks_per_token = (unsigned)atoi(arguments[4]);
    poller = epoll_create1(EPOLL_CLOEXEC);

    struct sockaddr_un local = {.sun_family = AF_UNIX};
    snprintf(local.sun_path, sizeof local.sun_path, "%s", arguments[1]);
    unlink(arguments[1]);
    struct sockaddr_in loopback = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(arguments[2])),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int sources[3] = {listen_on(AF_UNIX, (struct sockaddr *)&local, sizeof local),
                      listen_on(AF_INET, (struct sockaddr *)&loopback, sizeof loopback),
                      timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)};
    long period = atol(arguments[3]) * 1000;
    struct itimerspec every = {{period / 1000000000, period % 1000000000}, {period / 1000000000, period % 1000000000}};
    timerfd_settime(sources[2], 0, &every, NULL);
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &sources[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, sources[i], &event);
    }
    puts("ready");
    fflush(stdout);

    static struct epoll_event ready[EVENTS];
    for (;;) {
        int found = epoll_wait(poller, ready, EVENTS, -1);
        bool tokens_due = false;
        for (int i = 0; i < found; i++) {
            void *source = ready[i].data.ptr;
            if (source == &sources[2]) {
                tokens_due = true;
            } else if (source == &sources[0] || source == &sources[1]) {
                accept_all(*(int *)source);
            } else {
                struct connection *c = source;
                bool alive = !(ready[i].events & EPOLLOUT) || flush(c);
                if (alive && ready[i].events & ~(uint32_t)EPOLLOUT) alive = receive(c);
                if (!alive) drop(c);
            }
        }
        if (tokens_due) send_tokens(sources[2]); /* last: it may drop connections that have events here */
    }
}
