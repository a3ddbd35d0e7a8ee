/* SPDX-License-Identifier: Apache-2.0 */
/* thmq.h - what the commands of the thmq program share. Public headers of the library only. */
#ifndef THMQ_PROGRAM_H
#define THMQ_PROGRAM_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <thundermq/log.h>
#include <time.h>

#define SECOND 1000000000ull

enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_DAMAGE = 4,
	EXIT_BUSY = 5
};

/* An option: "--name" with or without a value. */
struct option_spec {
	const char *name;
	const char **value; /* takes one */
	bool *flag;         /* or is one */
};

extern volatile sig_atomic_t interrupted; /* by SIGINT, SIGTERM or SIGHUP */

/* Takes options out of argv; what is left are words. Return: their number, or -1 after saying what is wrong. */
int parse_options(int argc, char **argv, const struct option_spec *specs);
/* Are there as many as wanted? Else it says @what the command needs, or what is too many. */
bool count_words(char **argv, int words, int wanted, const char *what);
/* Of @specs and those for TLS, by its name without the dashes; else NULL, and one that is nearly so, or NULL. */
const struct option_spec *option_named(const struct option_spec *specs, const char *name, const char **ret_like);
int fail(int rc, const char *format, ...)
	__attribute__((format(printf, 2, 3))); /* says why; the exit code for rc */
int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool output_failed(
	void); /* standard output cannot be written; asked right after writing, it keeps why. main() says it */
bool output_gone(
	void); /* nobody reads standard output any more, though nothing was written meanwhile */
bool parse_number(const char *text, uint64_t max, uint64_t *ret_number);
uint64_t clock_ns(void);
void print_json_string(FILE *out, const void *data,
		       size_t len); /* as "…", or as {"base64": …} if it is not UTF-8 */

/* thmq_sub.c */
void print_message(const struct thmq_consumer *c, const struct thmq_message *m, bool json);
bool parse_from(const char *text, uint32_t *ret_start, uint64_t *ret_value); /* begin, end, an offset, or a time: an enum thmq_start */

/* Where each partition ended when a command began, which is where it stops, and what comes next of it. */
struct connection;
struct ends {
	uint32_t count;
	uint64_t *begin, *end, *next;
	bool some_only; /* not all messages come: another member may have the others */
};
/*
 * A partition, once what was to come to it by @wall_ns has come; 0: once it is known what waits for it. A broker that is opened here and now looks for its
 * delayed messages first. Where they are held up, by a disk that is full or a clock that is behind, not for long. 0, or an error of the library
 */
int partition_when_due(struct connection *c, const char *topic, uint32_t partition, const char *group, uint64_t wall_ns,
		       struct thmq_partition_info *ret);
int ends_find(struct connection *c, const char *topic, const char *group, struct ends *e); /* 0, or an error of the library */
/* Nothing has come for @idle_ns: of partitions that are not at their ends the broker is asked how far it is. 0, or an error. */
int ends_ask(struct thmq_consumer *consumer, struct ends *e, uint64_t idle_ns);
bool ends_reached(const struct ends *e);
void ends_free(struct ends *e);

/* thmq_units.c: 0, or an exit code after saying what is wrong with @option's value. */
int parse_duration(const char *option, const char *text, uint64_t *ret_ns);
int parse_size(const char *option, const char *text, uint64_t *ret_bytes);
bool parse_time(const char *text, uint64_t *ret_ns); /* a date, or a date and a time, in UTC: 2026-01-31T12:00:00Z */
struct unit_text {
	char text[32];
};
const char *duration_text(uint64_t ns, struct unit_text *buffer); /* "7d" */
const char *size_text(uint64_t bytes, struct unit_text *buffer);  /* "10G" */

const char *plural(uint64_t count);                               /* "" or "s" */

/* An environment, a broker on a directory, and a session. */
struct connection {
	struct thmq_env *env;
	struct thmq_broker *broker;
	struct thmq_session *session;
};
/* To a URL; as long as that, and as each call after it, takes at most. 0: 30 s */
int connect_within(struct connection *c, const char *url, uint64_t timeout_ns);
int connect_dir(struct connection *c, const char *dir, bool create,
		uint32_t policy); /* 0 or an exit code, said */
extern uint64_t connect_wait_ns; /* 0, or for how long connect_dir() waits for somebody to listen at a URL */
bool is_url(const char *dir); /* of a broker in another process: c->broker is NULL then */
char *socket_url(const char *dir); /* where a broker that has @dir open is joined; the caller's to free. NULL: no memory */
void wait_a_little(struct connection *c); /* something has to happen first: it may */
int disconnect(struct connection *c, int code);
/* What is 0 in @wanted was not asked for. @if_absent: one that exists will do, if it is as asked for. */
int make_topic(struct connection *c, const char *topic, const struct thmq_topic_opts *wanted,
	       bool if_absent);

/* thmq_tls.c: options that every command that meets other processes has; what they say, NULL: nothing. 0 or an exit code, said. */
const struct option_spec *tls_specs(void);
int tls_given(bool of_broker, const struct thmq_tls_opts **ret_opts);

/* thmq verify and thmq repair */
const char *finding_name(uint32_t kind);
void print_finding(const char *log, const struct thmq_log_finding *f, bool json);

/* Partitions of a topic from begin on, whose numbers in the log are from first on. */
struct name_range {
	uint32_t topic_id, first, count, begin;
};

/* thmq_names.c: what the numbers in the logs are called. All zero: nothing is known. */
struct names {
	struct thmq_data_name *topics; /* by first_partition */
	struct thmq_data_name *groups;
	struct name_range *ranges; /* partitions that topics got later */
	uint32_t topic_count, group_count, range_count;
	bool of_log; /* a log on its own: its states are its owner's */
};
struct name_text {
	char text[300];
};
struct state_words {
	char text[700];
};
void names_learn(struct names *n, const struct thmq_log_run *run); /* of the log meta */
void names_read(struct names *n, const char *dir);                 /* of a data directory's meta */
void names_free(struct names *n);
const char *partition_text(const struct names *n, uint32_t partition,
			   struct name_text *buffer); /* "orders/1", or "partition 7" */
const char *state_text(const struct names *n, uint32_t kind, uint64_t item,
		       struct state_words *buffer); /* "offset of group billing in orders/1" */
void print_partition_json(const struct names *n, uint32_t partition);      /* fields, behind others */
void print_state_json(const struct names *n, uint32_t kind, uint64_t item); /* likewise */

/* thmq_log.c: a directory that is a log on its own. 0, or an exit code after saying what is wrong. */
bool is_log(const char *dir);
int lock_log(const char *dir, int *ret_fd); /* shared; -1 where there is none */
void unlock_log(int fd);
int copy_log(const char *dir, const char *dest);

/* thmq_top.c: what the cores of @env do, below @title; until it is interrupted, or once. 0, or an exit code. */
int top(struct thmq_env *env, const char *title, bool once, bool json);
int parse_policy(const char *text, uint32_t *ret_policy); /* 0, or an exit code after saying what is wrong */
const char *policy_name(uint32_t policy);
const char *model_name(uint32_t model); /* of a forecast */
const char *budget_text(uint64_t ns, struct unit_text *buffer); /* how long a core spins; @buffer is its room */

/* thmq_stat.c: what another process does that has @dir open. -1: none has, or it keeps no statistics; else an exit code. */
int top_of_other(const char *dir, bool once, bool json);

/* thmq_times.c: of @n times, which are sorted by it; there is one at least. */
struct times {
	double min_us, mean_us, p50_us, p99_us, p999_us, max_us;
};
void times_of(uint64_t *ns, uint32_t n, struct times *ret);
void print_plot(const uint64_t *ns, uint32_t n); /* of those that are sorted */

/*
 * thmq_config.c: with the words of the files that --config names in front. @specs: what may stand there. @ret_dir: the directory that they name, or NULL. 0, or an
 * exit code, said.
 */
void print_config_place(FILE *to, const char *text); /* where a file said "--option: …", if one did */
int config_words(int argc, char **argv, const struct option_spec *specs, int *ret_argc, char ***ret_argv, char **ret_dir);

int cmd_pub(int argc, char **argv);
int cmd_sub(int argc, char **argv);
int cmd_redrive(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int serve_as_child(int argc, char **argv); /* of thmq cluster try: ends with its parent */
int cmd_cluster(int argc, char **argv);
const char *node_error(int error); /* why one of several brokers is not reached */
int cmd_top(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_topic(int argc, char **argv);
int cmd_group(int argc, char **argv);
int cmd_txn(int argc, char **argv);
int cmd_browse(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_repair(int argc, char **argv);
int cmd_copy(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_ping(int argc, char **argv);
int cmd_cores(int argc, char **argv);

#endif
