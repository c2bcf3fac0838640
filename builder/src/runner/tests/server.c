/* A server for tests of the runners, linked statically. It does what the path says and answers with what it found. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t ending;
static void end(int signal) { (void)signal; ending = 1; }

static char body[1 << 16];
static size_t used;

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(body + used, sizeof body - used, format, arguments);
    va_end(arguments);
    if (count > 0) used += (size_t)count < sizeof body - used ? (size_t)count : sizeof body - used - 1;
}

static void outcome(int failed) { say("%s", failed ? strerrorname_np(errno) : "ok"); }

static void answer(const char *act, const char *what) {
    if (!strcmp(act, "file")) {
        int file = open(what, O_RDONLY);
        if (file < 0) { outcome(1); return; }
        ssize_t count = read(file, body, sizeof body - 1);
        if (count < 0) outcome(1); else used = (size_t)count;
        close(file);
    } else if (!strcmp(act, "write")) {
        int file = open(what, O_WRONLY | O_CREAT, 0644);
        outcome(file < 0 || write(file, "x", 1) != 1);
        if (file >= 0) close(file);
    } else if (!strcmp(act, "mkdir")) {
        outcome(mkdir(what, 0755));
    } else if (!strcmp(act, "list")) {
        DIR *folder = opendir(what);
        if (!folder) { outcome(1); return; }
        for (struct dirent *entry; (entry = readdir(folder));)
            if (entry->d_name[0] != '.') say("%s ", entry->d_name);
        closedir(folder);
    } else if (!strcmp(act, "link")) {
        char target[256] = "";
        if (readlink(what, target, sizeof target - 1) < 0) outcome(1); else say("%s", target);
    } else if (!strcmp(act, "env")) {
        say("%s", getenv(what) ? getenv(what) : "");
    } else if (!strcmp(act, "identity")) {
        gid_t groups[64];
        char name[64] = "", folder[256] = "";
        gethostname(name, sizeof name - 1);
        say("uid=%d gid=%d pid=%d groups=%d host=%s folder=%s", getuid(), getgid(), getpid(), getgroups(64, groups), name, getcwd(folder, sizeof folder));
    } else if (!strcmp(act, "chown")) {
        outcome(chown(what, 1, 1));
    } else if (!strcmp(act, "alloc")) {
        size_t bytes = (size_t)atol(what) << 20;
        volatile char *memory = malloc(bytes);
        for (size_t at = 0; memory && at < bytes; at += 4096) memory[at] = 1;
        outcome(!memory);
    } else if (!strcmp(act, "print")) {
        printf("%s\n", what);
        fflush(stdout);
        say("ok");
    } else if (!strcmp(act, "spawn")) {
        if (fork() == 0) { setsid(); for (int file = 3; file < 16; file++) close(file); for (;;) pause(); }
        say("ok");
    } else if (!strcmp(act, "spin")) {
        clock_t begun = clock();
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        do clock_gettime(CLOCK_MONOTONIC, &to); while ((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 < atol(what));
        say("%ld", (long)((clock() - begun) * 1000 / CLOCKS_PER_SEC));
    } else if (!strcmp(act, "exit")) {
        exit(atoi(what));
    } else if (!strcmp(act, "missing")) {
        used = (size_t)-1;
    } else {
        say("ready");
    }
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    fprintf(stderr, "phase exec\n");
    if (!strcmp(mode, "fail")) {
        fprintf(stderr, "no model in /models\n");
        return 3;
    }
    if (!strcmp(mode, "hang")) for (;;) pause();
    struct sigaction action = {.sa_handler = strcmp(mode, "stubborn") ? end : SIG_IGN};
    sigaction(SIGTERM, &action, NULL);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const char *port = getenv("IMGSERVE_PORT"), *host = getenv("IMGSERVE_HOST");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)(port ? atoi(port) : 8080))};
    inet_aton(host ? host : "0.0.0.0", &address.sin_addr);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) {
        fprintf(stderr, "cannot listen: %s\n", strerror(errno));
        return 4;
    }
    if (!strcmp(mode, "slow")) usleep(300000);
    fprintf(stderr, "phase ready\n");
    while (!ending) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        char request[2048];
        ssize_t size = read(client, request, sizeof request - 1);
        request[size > 0 ? size : 0] = 0;
        char act[64] = "", what[1024] = "";
        sscanf(request, "GET /%63[^? ]?%1023[^ ]", act, what);
        memset(body, 0, sizeof body);
        used = 0;
        answer(act, what);
        const char *status = used == (size_t)-1 ? (used = 0, "404 Not Found") : "200 OK";
        dprintf(client, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, used);
        if (write(client, body, used) < 0) fprintf(stderr, "client went away\n");
        close(client);
    }
    fprintf(stderr, "drained\n");
    return 0;
}
