/* SPDX-License-Identifier: Apache-2.0 */
/* thmq.c - the command-line program: which command, help, and what all of them need. */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "thmq.h"

static int end_output(int code);

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *synopsis;
	const char *help;
} commands[] = {
	{"pub", cmd_pub, "thmq pub DIR TOPIC [FILE...]",
	 "Publishes every line of the files (of standard input without any, or for -) as a\n"
	 "message. Where it has to wait for more input, what came is stored meanwhile. If it\n"
	 "fails or is interrupted, it says how many messages were stored.\n"
	 "\n"
	 "  --create             make the directory and the topic if they are absent; an empty\n"
	 "                       data directory takes about 54 MB at once\n"
	 "  --partitions N       with --create: partitions of the topic (default 1); a topic that\n"
	 "                       exists must have as many\n"
	 "  --key KEY            key of every message, 1 to 4096 bytes: the same key goes to the\n"
	 "                       same partition\n"
	 "  --key-separator C    the key is what stands before the first C of a line, and is not\n"
	 "                       part of the message\n"
	 "  --partition N        to this partition\n"
	 "  --priority N         of a topic with priorities: 0 (the lowest) and up\n"
	 "  --tag TAG            tag of every message, at most 255 bytes\n"
	 "  --header NAME=VALUE  a header of every message; any number of them. NAME:int=VALUE, and\n"
	 "                       likewise real and bool (true, false), for others than text\n"
	 "  --ttl T              nobody is given a message that is older than this: 30s, 90m, 12h\n"
	 "  --delay T            messages come so long after they were sent: 500ms, 30s, 90m, 7d\n"
	 "  --at TIME            messages come at this time: 2026-01-31T12:00:00Z, or a date as\n"
	 "                       2026-01-31: its midnight, both UTC\n"
	 "  --compress NAME      lz4 or zstd: what is sent is stored so, and unpacked by who reads it.\n"
	 "                       Lines of less than 512 bytes go as they are, but with --batch N\n"
	 "                       where they are that much together (so N of 6 for lines of 92)\n"
	 "  --batch N            lines go together, up to N (at most 4096) or 64 KiB of them, and are\n"
	 "                       compressed as one: short lines that are alike become much smaller.\n"
	 "                       With --key-separator and several partitions: those of one key\n"
	 "  --durability LEVEL   memory, written, durable (default), and with copies quorum (default\n"
	 "                       there) or all\n"
	 "  --atomic             all of it or nothing, in one transaction (an hour at most)\n"
	 "  --prepare NAME       likewise, but whether it counts is said later: it prints the number\n"
	 "                       for thmq txn commit or thmq txn abort, and until then nobody sees it\n"
	 "  --quiet              no progress, no summary\n"
	 "  --json               the summary as JSON: messages (how many were stored), bytes,\n"
	 "                       seconds, complete, not_stored, unknown (stored or not), transaction\n"
	 "                       (the number that --prepare prints, or 0)\n"},
	{"sub", cmd_sub, "thmq sub DIR TOPIC",
	 "Prints the messages of a topic, one a line.\n"
	 "\n"
	 "  --group GROUP        as a member of this group: goes on where it stopped, and stores\n"
	 "                       how far it came\n"
	 "  --from WHERE         begin, end, an offset (in every partition that holds it), a time\n"
	 "                       as 2026-01-31T12:00:00Z, or a date as 2026-01-31: its midnight,\n"
	 "                       both UTC (default: the group's offset, else begin)\n"
	 "  --tag TAG[,TAG...]   only messages with one of these tags\n"
	 "  --filter TEXT        only messages of which this is true, such as\n"
	 "                       \"price > 10 AND region LIKE 'eu%'\": of headers, KEY, TAG, TIMESTAMP\n"
	 "  --count N            at most N messages\n"
	 "  --follow             wait for more at the end, until interrupted, which is its end\n"
	 "                       and no failure, or until nobody reads the output\n"
	 "  --json               one JSON object a message: partition, offset, time_ns, priority\n"
	 "                       (above 0), key, tag, headers, data\n"},
	{"browse", cmd_browse, "thmq browse DIR TOPIC",
	 "Looks at messages without a group: prints those of a range, or of a key, and stores\n"
	 "nothing.\n"
	 "\n"
	 "  --from WHERE         begin (default), end, an offset, or a time or date as of sub\n"
	 "  --to WHERE           before this offset, or time\n"
	 "  --key KEY            those with this key, newest first, found by the index\n"
	 "  --filter TEXT        only messages of which this is true\n"
	 "  --partition N        of this partition only\n"
	 "  --count N            at most N messages\n"
	 "  --json               one JSON object a message, as sub\n"},
	{"redrive", cmd_redrive, "thmq redrive DIR TOPIC",
	 "Sends the dead letters of a topic again, to where they come from, and goes on where it\n"
	 "stopped the last time.\n"
	 "\n"
	 "  --to TOPIC           all of them to this topic\n"
	 "  --group GROUP        which group keeps how far it came (default: redrive)\n"
	 "  --count N            at most N messages\n"
	 "  --json               as JSON: sent, unknown (they do not say where they come from)\n"},
	{"topic", cmd_topic, "thmq topic create|alter|list|describe|delete DIR [TOPIC]",
	 "Manages topics. create makes the directory too if it is absent; an empty data\n"
	 "directory takes about 54 MB at once.\n"
	 "\n"
	 "  --partitions N       create, alter: partitions (default 1); alter adds to those there are:\n"
	 "                       keys go to other partitions from then on\n"
	 "  --priorities N       create: messages have priorities from 0 to N - 1, each with as many\n"
	 "                       partitions; higher ones come first\n"
	 "  --visible-at LEVEL   create: memory, written or durable (default): when consumers see\n"
	 "                       a message\n"
	 "  --retention-time T   create, alter: messages older than this may go: 30s, 90m, 12h, 7d, 2w;\n"
	 "                       this and the next four: none takes it away\n"
	 "  --retention-bytes N  create, alter: of each partition all but the newest N bytes may go: 10G\n"
	 "  --ttl T              create, alter: nobody is given a message that is older than this: 90m\n"
	 "  --limits L           create, alter: so much a second may go through it, whoever uses it:\n"
	 "                       produce-bytes=10M,consume-messages=5K, and likewise produce-messages,\n"
	 "                       consume-bytes; what is not named has no limit\n"
	 "  --retain-consumed    create: what all groups have acknowledged may go\n"
	 "  --compact            create: of each key only the newest message is kept; one without\n"
	 "                       data deletes its key\n"
	 "  --tombstones T       create, alter: for how long it is kept that a key was deleted (1d)\n"
	 "  --if-absent          create: succeed where it exists; what was asked for must be so\n"
	 "  --group GROUP        describe: where this group stands\n"
	 "  --json               list, describe: as JSON, one object a topic or partition\n"
	 "\n"
	 "In text, \"offsets A to B\" has both A and B. In JSON, end is one past the last offset,\n"
	 "and lag the number of messages from where the group is to the end; while begun is\n"
	 "false, from where it would begin. Offsets that a crash left unused count too.\n"},
	{"group", cmd_group, "thmq group list|describe|reset|delete DIR TOPIC [GROUP]",
	 "Tells of the groups of a topic: who is in them, who reads what, how far behind they\n"
	 "are; says where one goes on, or forgets it.\n"
	 "\n"
	 "  --to WHERE           reset: begin, end, an offset, or a time or date as of sub\n"
	 "  --partition N        reset: in this partition only\n"
	 "  --force              reset, delete: also a group that has members; they are put out\n"
	 "  --json               list, describe: as JSON\n"},
	{"txn", cmd_txn, "thmq txn list|abort|commit DIR [ID]",
	 "Tells of the transactions that are not over: whose they are, since when, for how long\n"
	 "still; and ends one that holds up what it has written to. One that is open can only be\n"
	 "aborted, one that is prepared be committed too.\n"
	 "\n"
	 "  --json               list: as JSON, one object a transaction\n"},
	{"serve", cmd_serve, "thmq serve DIR",
	 "Opens the directory, which is made if it is absent, for other processes, until it is\n"
	 "interrupted. They name the URL where DIR stands in pub, sub and topic; on the same\n"
	 "machine, and of the same user, DIR itself will do. Prints where it listens once it\n"
	 "does. Without the options for TLS nothing is encrypted, and nobody is asked who he is.\n"
	 "\n"
	 "  --listen URL         tcp://host:port (default tcp://127.0.0.1:7471), port 0 for any,\n"
	 "                       tls://host:port or shm:///path; several, separated by commas\n"
	 "  --cores N            threads that serve (default 1), and shards of a new directory\n"
	 "  --policy NAME        how they wait: poll, event, fixed, ski, adaptive, predictive\n"
	 "  --cpu-cap N          a thread that uses more than N percent of a processor spins less\n"
	 "  --access FILE        rules: who may do what, and how much; read again when it changes.\n"
	 "                       What is denied is told on standard error\n"
	 "  --stats FILE         keep the statistics there (default: the file stats in DIR)\n"
	 "  --no-stats           keep none\n"
	 "  --trace N            show each N-th group commit step by step: thmq explain\n"
	 "  --config FILE        lines name = value, each one of these options without dashes, and\n"
	 "                       dir = DIR, without quotes, each once; a flag is name = yes or no;\n"
	 "                       # begins a comment line. The command line counts more\n"
	 "\n"
	 "One of several brokers that keep the same data (see thmq cluster):\n"
	 "  --node N             which of them this is\n"
	 "  --cluster LIST       all of them: 1=tcp://host:port,2=...; it listens at its own\n"
	 "  --cluster-name NAME  the same on all, and no other cluster's\n"
	 "  --cluster-key FILE   a key of 32 to 128 hexadecimal digits, the same on all\n"
	 "  --cluster-listen URL where it listens for the others, if not as --cluster says\n"
	 "  --cluster-tls-cert FILE, --cluster-tls-key FILE, --cluster-tls-ca FILE\n"
	 "                       in place of a key: the broker's certificate, its private key if it\n"
	 "                       is not in there too, and who signs those of all brokers\n"
	 "  --cluster-tls-crl FILE  what that signer has revoked\n"
	 "  --cluster-tls-name NAMES  for whom certificates of the others are, if not for the host\n"
	 "                       that --cluster says\n"
	 "  --join               it comes with an empty directory, to be added\n"},
	{"cluster", cmd_cluster, "thmq cluster create|join|status|add|remove|transfer|drain|undrain|try ...",
	 "Brokers that keep the same data: what a majority has stored stays, and where one fails\n"
	 "another takes over. URL: of one of them, or of several, separated by commas.\n"
	 "\n"
	 "  create DIR 1=tcp://host:port 2=...  makes a key and a config file for each broker in\n"
	 "                       DIR: copy these to their machines, with paths as they are there\n"
	 "  join DIR 4=tcp://host:port  the same for one more, that is to be added\n"
	 "  status URL           who they are, who leads, who is behind or not reached\n"
	 "  add URL N ADDRESS    a new one, that was started with --join; waits till it has all\n"
	 "  remove URL N         one leaves, or is lost; its number is never used again\n"
	 "  transfer URL N       broker N is to lead\n"
	 "  drain URL N          broker N is not to lead: before it is stopped\n"
	 "  undrain URL N        it may lead again\n"
	 "  try DIR              three brokers on this machine, until interrupted\n"
	 "\n"
	 "  --name NAME          create: the cluster's (default thmq)\n"
	 "  --data DIR           create, join: where each broker keeps its data, on its machine\n"
	 "                       (default: node-N beside its config file)\n"
	 "  --port N             try: the first of three (default 7471)\n"
	 "  --wait               status: until all that vote are there, and have what is stored:\n"
	 "                       between one restart and the next; else it fails\n"
	 "  --timeout T          how long to wait: 30s, 5m (default 1m; status without --wait 5s)\n"
	 "  --json               status: one JSON object a broker\n"},
	{"top", cmd_top, "thmq top DIR",
	 "Serves as thmq serve does, with the same options, and shows once a second what each core\n"
	 "of this process spends its time on, and how it waits. Where standard output is no terminal\n"
	 "it shows that once, after a second, and ends. Where another process has DIR open, and keeps\n"
	 "statistics, it shows what that one does.\n"
	 "\n"
	 "  --once               one second, shown once\n"
	 "  --json               once, one JSON object a core: core, policy, budget_ns (null: it\n"
	 "                       spins for ever), shares of the time, and counts a second\n"},
	{"stat", cmd_stat, "thmq stat DIR",
	 "Shows what the process that has DIR open has counted and measured since, or had, if it\n"
	 "has died: its cores, shards, topics and ways to reach it. It is not disturbed. DIR may be\n"
	 "the file of statistics itself.\n"
	 "\n"
	 "  --all                values that are 0, too\n"
	 "  --json               one JSON object for the process, then one for each row\n"
	 "  --prometheus         in the text format that Prometheus reads\n"},
	{"explain", cmd_explain, "thmq explain DIR",
	 "Shows where the last group commits that were looked at (thmq serve --trace N) have spent\n"
	 "their time: in the queue, until the device took them; at the device; and until a flush had\n"
	 "proven that they last.\n"
	 "\n"
	 "  --json               one JSON object each\n"},
	{"verify", cmd_verify, "thmq verify DIR",
	 "Checks every stored byte of a closed directory, indexes too, and that its logs belong\n"
	 "together, and changes nothing. Exit status 4 if something is damaged. A directory of\n"
	 "a log on its own, without topics, will do too, here and for dump, repair and copy.\n"
	 "\n"
	 "  --json               findings and summary as JSON\n"},
	{"dump", cmd_dump, "thmq dump DIR",
	 "Shows what is stored in a closed directory: one line a run. orders/1 is partition 1 of\n"
	 "topic orders. \"offsets A to B\" has both A and B. Or of a file quarantine-….bin that a\n"
	 "repair has left.\n"
	 "\n"
	 "  --batches            batch headers too\n"
	 "  --json               one JSON object a line\n"},
	{"repair", cmd_repair, "thmq repair DIR",
	 "Tells what would make a damaged, closed directory open again, and what is lost; does\n"
	 "it with --write. Indexes and vote files are made anew. From the first damaged batch of\n"
	 "a log on everything is moved aside, into files quarantine-POSITION.bin beside the log.\n"
	 "Copy the directory as it is before. Exit status 4 if something is to be repaired, or\n"
	 "cannot be.\n"
	 "\n"
	 "  --write              do it\n"
	 "  --quarantine DIR     with --write: what is moved aside goes there\n"
	 "  --json               findings, losses, steps and summary as JSON\n"},
	{"copy", cmd_copy, "thmq copy DIR NEW",
	 "Copies a closed directory, and checks every batch on the way: what is damaged is not\n"
	 "copied. NEW must not be there, or be empty. Processes copy a directory that they have\n"
	 "open by thmq_broker_copy().\n"},
	{"bench", cmd_bench, "thmq bench DIR|URL",
	 "Measures durable, written and memory-acknowledged publishing, and how soon a consumer has\n"
	 "what was published, on the device of DIR, which must be there, in a directory\n"
	 "thmq-bench-XXXXXX that is made in it and removed at the end, also when interrupted. Data\n"
	 "in DIR is not touched. Meanwhile it takes as much room as it writes, which may be some\n"
	 "gigabytes. With the URL of a broker: through the network, in topics thmq-bench-... that\n"
	 "are made there and deleted at the end.\n"
	 "\n"
	 "  --seconds N          for each figure (default 2)\n"
	 "  --count N            so many messages for each figure, however long they take\n"
	 "  --rate N             one figure only: so many messages a second, each sent when it is\n"
	 "                       due, and its time counted from then\n"
	 "  --plot               with a plot of the times\n"
	 "  --size N             bytes of a message, 0 to 500000 (default 100): 16K\n"
	 "  --group-us N         how long a batch may wait for more messages (default 0)\n"
	 "  --flush METHOD       auto (default), dsync: each durable write says so itself, or\n"
	 "                       fdatasync: a plain write, then a flush\n"
	 "  --polled WHEN        auto (default), on or off: completions are looked for at the\n"
	 "                       device, if it has polled queues\n"
	 "  --json               as JSON\n"},
	{"ping", cmd_ping, "thmq ping URL",
	 "Asks a broker again and again, each time when it has answered, and shows how long that\n"
	 "took: the times, and a plot with rows of equal ratio. A directory will do too.\n"
	 "\n"
	 "  --wait T             where nobody listens yet, wait for that so long at most: 10s\n"
	 "  --count N            so many times (default 1000)\n"
	 "  --interval-us N      not oftener than each N microseconds\n"
	 "  --json               as JSON\n"},
	{"cores", cmd_cores, "thmq cores",
	 "Shows the processors that this process may use, and in which order cores that threads of\n"
	 "the library drive would be pinned to them. Nothing is pinned.\n"
	 "\n"
	 "  --count N            so many cores (default: as many as there are processors)\n"
	 "  --near PATH          near the device of this file or directory\n"
	 "  --card NAME          near this network interface or RDMA device\n"
	 "  --cpus LIST          on these: 2-5,8\n"
	 "  --json               as JSON; -1 is what is not known\n"},
};

/* Of the commands that meet other processes. */
static const char *const meeting[] = {"pub", "sub", "browse", "redrive", "topic", "group", "txn", "ping", "serve", "bench", "cluster"};
static const char tls_help[] =
	"\n"
	"TLS, for tls://host:port, and for tcp:// too if one of these is given:\n"
	"  --tls-ca FILE        who signs the other side's certificate (PEM); by default whom the\n"
	"                       system believes; serve needs it to know whom to let in\n"
	"  --tls-cert FILE      our certificate; serve needs one, or --tls-psk\n"
	"  --tls-key FILE       its private key (default: in the same file); if it is encrypted,\n"
	"                       THMQ_TLS_KEY_PASSWORD in the environment opens it\n"
	"  --tls-crl FILE       certificates that --tls-ca's signer has revoked\n"
	"  --tls-name NAME      what the other side's certificate is for (default: the URL's host;\n"
	"                       serve: any)\n"
	"  --tls-psk FILE       pre-shared keys instead of certificates: lines identity:hexadecimal\n"
	"                       key; all but serve take the first\n"
	"  --tls-any-name       any name will do in a certificate that --tls-ca's signer has signed\n"
	"  --tls-any-client     serve: nobody is asked who he is\n";

volatile sig_atomic_t interrupted;
static const struct command *running; /* whose options are parsed */

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

/*
 * A descriptor from 0 to 2 that was closed by whoever started us would else go to the next file that is opened, and our
 * output into the data. Each is opened the wrong way round, so that its use still fails.
 */
static void fill_descriptors(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal}, before;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* nohup */
		sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* How many letters must be added, removed or changed to make @b of @a; a great number where that is too much to look at. */
static unsigned distance(const char *a, const char *b)
{
	size_t a_len = strlen(a), b_len = strlen(b), i, j;
	unsigned row[32], corner, above, best;

	if (a_len >= 32 || b_len >= 32)
		return UINT32_MAX;
	for (j = 0; j <= b_len; j++)
		row[j] = (unsigned)j;
	for (i = 1; i <= a_len; i++) {
		corner = row[0];
		row[0] = (unsigned)i;
		for (j = 1; j <= b_len; j++) {
			above = row[j];
			best = corner + (a[i - 1] != b[j - 1]);
			best = above + 1 < best ? above + 1 : best;
			best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
			row[j] = best;
			corner = above;
		}
	}
	return row[b_len];
}

/* Is @known what somebody may have meant who wrote @word? */
static bool is_like(const char *word, const char *known)
{
	return distance(word, known) <= (strlen(known) > 5 ? 2u : 1u);
}

static int no_command(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (is_like(name, commands[i].name))
			return usage_error("there is no command '%s'; is it %s?", name, commands[i].name);
	return usage_error("there is no command '%s'; thmq help lists them", name);
}

static const struct command *find_command(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static bool is_meeting(const struct command *c)
{
	size_t i;

	for (i = 0; i < sizeof(meeting) / sizeof(meeting[0]); i++)
		if (strcmp(c->name, meeting[i]) == 0)
			return true;
	return false;
}

static void help(FILE *out, const char *name)
{
	const struct command *c = name ? find_command(name) : NULL;
	size_t i;

	if (c) {
		fprintf(out, "usage: %s\n\n%s%s", c->synopsis, c->help, is_meeting(c) ? tls_help : "");
		return;
	}
	fprintf(out, "thmq - durable message queues in a directory\n\n");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(out, "  %s\n", commands[i].synopsis);
	fprintf(out, "  thmq help COMMAND\n  thmq version\n\n"
		     "pub, sub, browse, redrive, topic, group, txn, ping and bench take the URL of a broker, shm:///path, tcp://host:port or\n"
		     "tls://host:port, for DIR.\n\n"
		     "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 damage, 5 in "
		     "use by another process.\n");
}

static bool asks_for_help(int argc, char **argv)
{
	int i;

	for (i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || (i == 2 && strcmp(argv[i], "-h") == 0))
			return true;
	return false;
}

static int run(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	const struct command *c = find_command(name);

	if (argc < 2) {
		help(stderr, NULL);
		return EXIT_USAGE;
	}
	if (c && asks_for_help(argc, argv)) {
		help(stdout, name);
	} else if (c) {
		running = c;
		return c->run(argc - 2, argv + 2);
	} else if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
		printf("thmq %s\n", thmq_version());
	} else if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 ||
		   strcmp(name, "-h") == 0) {
		if (argc > 2 && !find_command(argv[2]) && strcmp(argv[2], "help") != 0 && strcmp(argv[2], "version") != 0)
			return no_command(argv[2]);
		help(stdout, argc > 2 ? argv[2] : NULL);
	} else {
		return no_command(name);
	}
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	fill_descriptors();
	catch_signals();
	return end_output(run(argc, argv));
}

/* ------------------------------------------------------------------- output */

static int output_error; /* the first one */

bool output_failed(void)
{
	if (!output_error && ferror(stdout))
		output_error = errno ? errno : EIO;
	return output_error != 0;
}

bool output_gone(void)
{
	struct pollfd p = {.fd = STDOUT_FILENO};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP));
}

/* Output that did not get out is a failure, unless its reader has had enough. */
static int end_output(int code)
{
	fflush(stdout);
	if (!output_failed() || output_error == EPIPE)
		return code;
	if (interrupted && output_error == EINTR)
		fail(-EINTR, "interrupted");
	else
		fail(-output_error, "standard output: %s", strerror(output_error));
	return code == EXIT_OK ? EXIT_FAILED : code;
}

/* ------------------------------------------------------------------ options */

static void no_option(const char *word, size_t len, const struct option_spec *specs)
{
	const struct option_spec *s;
	char name[32] = "";

	if (len < sizeof(name))
		memcpy(name, word, len);
	for (s = specs; s->name && *name; s++)
		if (is_like(name, s->name)) {
			usage_error("there is no option %.*s here; is it %s? thmq help %s", (int)len, word, s->name,
				    running->name);
			return;
		}
	usage_error("there is no option %s here%s; thmq help %s", word,
		    word[1] == '-' ? "" : ": a name that begins with - stands behind --", running->name);
}

/* Its name is NULL if there is none. */
static const struct option_spec *find_option(const struct option_spec *s, const char *word, size_t len)
{
	while (s->name && (strlen(s->name) != len || strncmp(s->name, word, len) != 0))
		s++;
	return s;
}

const struct option_spec *option_named(const struct option_spec *specs, const char *name, const char **ret_like)
{
	const struct option_spec *all[2] = {specs, tls_specs()}, *s;
	size_t i;

	*ret_like = NULL;
	for (i = 0; i < 2; i++) {
		for (s = all[i]; s->name; s++) {
			if (strcmp(s->name + 2, name) == 0)
				return s;
			if (!*ret_like && is_like(name, s->name + 2))
				*ret_like = s->name + 2;
		}
	}
	return NULL;
}

/* Option @argv[*@i], which has its value behind "=" or in the next word. Whether it is well. */
static bool parse_option(int argc, char **argv, int *i, const struct option_spec *specs)
{
	const struct option_spec *s;
	const char *word = argv[*i], *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);

	s = find_option(specs, word, len);
	if (!s->name && is_meeting(running))
		s = find_option(tls_specs(), word, len);
	if (!s->name) {
		no_option(word, len, specs);
		return false;
	}
	if (s->flag && equals) {
		usage_error("%s takes no value", s->name);
		return false;
	}
	if (s->flag) {
		*s->flag = true;
	} else if (equals) {
		*s->value = equals + 1;
	} else if (*i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0) {
		*s->value = argv[++*i];
	} else {
		usage_error("%s needs a value%s", s->name,
			    *i + 1 < argc ? "; one that begins with -- is written behind a =" : "");
		return false;
	}
	return true;
}

int parse_options(int argc, char **argv, const struct option_spec *specs)
{
	bool ended = false; /* by "--" */
	int words = 0, i;

	for (i = 0; i < argc; i++) {
		if (ended || argv[i][0] != '-' || strcmp(argv[i], "-") == 0)
			argv[words++] = argv[i];
		else if (strcmp(argv[i], "--") == 0)
			ended = true;
		else if (!parse_option(argc, argv, &i, specs))
			return -1;
	}
	argv[words] = NULL;
	return words;
}

bool count_words(char **argv, int words, int wanted, const char *what)
{
	if (words > wanted)
		usage_error("%s, and no more: what is %s?", what, argv[wanted]);
	else if (words < wanted)
		usage_error("%s; thmq help %s", what, running->name);
	return words == wanted;
}

bool parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
	char *end;

	errno = 0;
	*ret_number = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *ret_number <= max;
}

static int exit_code(int rc)
{
	switch (rc) {
	case -ENOENT:
	case -THMQ_ENOTOPIC:
	case -THMQ_ENOPARTITION:
		return EXIT_NOT_FOUND;
	case -THMQ_ECORRUPT:
	case -THMQ_EVERSION:
		return EXIT_DAMAGE;
	case -EBUSY:
		return EXIT_BUSY;
	default:
		return EXIT_FAILED;
	}
}

int fail(int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("thmq: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	return exit_code(rc);
}

int usage_error(const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fputs("thmq: ", stderr);
	print_config_place(stderr, text);
	fprintf(stderr, "%s\n", text);
	return EXIT_USAGE;
}

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* --------------------------------------------------------------------- JSON */

static bool is_utf8(const unsigned char *s, size_t len)
{
	size_t i = 0, more;

	while (i < len) {
		if (s[i] < 0x80)
			more = 0;
		else if (s[i] >= 0xc2 && s[i] <= 0xdf)
			more = 1;
		else if (s[i] >= 0xe0 && s[i] <= 0xef)
			more = 2;
		else if (s[i] >= 0xf0 && s[i] <= 0xf4)
			more = 3;
		else
			return false;
		for (i++; more; more--, i++)
			if (i >= len || (s[i] & 0xc0) != 0x80)
				return false;
	}
	return true;
}

static void print_base64(FILE *out, const unsigned char *s, size_t len)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t i;

	for (i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)s[i] << 16 | (i + 1 < len ? (uint32_t)s[i + 1] << 8 : 0) |
			     (i + 2 < len ? s[i + 2] : 0);

		fputc(digits[v >> 18], out);
		fputc(digits[v >> 12 & 63], out);
		fputc(i + 1 < len ? digits[v >> 6 & 63] : '=', out);
		fputc(i + 2 < len ? digits[v & 63] : '=', out);
	}
}

void print_json_string(FILE *out, const void *data, size_t len)
{
	const unsigned char *s = data;
	size_t i;

	if (!is_utf8(s, len)) {
		fputs("{\"base64\":\"", out);
		print_base64(out, s, len);
		fputs("\"}", out);
		return;
	}
	fputc('"', out);
	for (i = 0; i < len; i++) {
		if (s[i] == '"' || s[i] == '\\')
			fprintf(out, "\\%c", s[i]);
		else if (s[i] < 0x20)
			fprintf(out, "\\u%04x", s[i]);
		else
			fputc(s[i], out);
	}
	fputc('"', out);
}

/* --------------------------------------------------------------- connection */

bool is_url(const char *dir)
{
	return strstr(dir, "://") != NULL;
}

uint64_t connect_wait_ns;

/* By a thread of the library, which says that we are alive while we wait for input or for whoever reads our output. */
static int connect_url(struct connection *c, const char *url, uint64_t timeout_ns)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	const struct thmq_tls_opts *tls;
	uint64_t until = clock_ns() + connect_wait_ns;
	int rc = tls_given(false, &tls);

	if (rc)
		return rc;
	rc = thmq_env_open(&c->env, THMQ_ENV_OPTS(.core_count = 1));
	if (rc == 0)
		while ((rc = thmq_connect(c->env, url, THMQ_SESSION_OPTS(.tls = tls, .timeout_ns = timeout_ns), &c->session)) == -ECONNREFUSED &&
		       clock_ns() < until && !interrupted)
			nanosleep(&nap, NULL);
	if (rc == 0)
		return 0;
	rc = fail(rc, "%s", thmq_errmsg());
	thmq_env_close(c->env, 0);
	return rc;
}

int connect_within(struct connection *c, const char *url, uint64_t timeout_ns)
{
	memset(c, 0, sizeof(*c));
	return connect_url(c, url, timeout_ns);
}

char *socket_url(const char *dir)
{
	static const char digits[] = "0123456789ABCDEF";
	size_t len = strlen(dir), n = 6, i;
	char *url = malloc(len * 3 + sizeof("shm:///socket"));

	if (!url)
		return NULL;
	memcpy(url, "shm://", 6);
	for (i = 0; i < len; i++) {
		unsigned char c = (unsigned char)dir[i];

		/* these mean something in a list of URLs; at the begin it would be a name of no file */
		if (c == ',' || c == '?' || c == '%' || c == '@' || c <= ' ') {
			url[n++] = '%';
			url[n++] = digits[c >> 4];
			url[n++] = digits[c & 15];
		} else {
			url[n++] = (char)c;
		}
	}
	memcpy(url + n, "/socket", sizeof("/socket"));
	return url;
}

/* Another process has the directory open: by its socket, if it has one, we are its client. */
static int join(struct connection *c, const char *dir)
{
	char *url = socket_url(dir);
	int rc = url ? thmq_connect(c->env, url, NULL, &c->session) : -ENOMEM;

	free(url);
	return rc;
}

void wait_a_little(struct connection *c)
{
	if (c->broker)
		thmq_poll(c->env, SECOND);
	else
		thmq_session_wait(c->session, SECOND / 100);
}

static int fail_to_join(struct connection *c, int rc, const char *why)
{
	rc = fail(rc, "%s; nor can it be reached there: %s", why, thmq_errmsg());
	thmq_env_close(c->env, 0);
	return rc;
}

int connect_dir(struct connection *c, const char *dir, bool create, uint32_t policy)
{
	char why[1024], *flag;
	int rc, joined;

	memset(c, 0, sizeof(*c));
	if (!*dir)
		return usage_error("the name of the directory is empty");
	if (is_url(dir))
		return connect_url(c, dir, 0);
	rc = thmq_env_open(&c->env, THMQ_ENV_OPTS(.policy = policy));
	if (rc == 0)
		rc = thmq_broker_open(c->env,
				      THMQ_BROKER_OPTS(.data_dir = dir,
						       .flags = create ? 0 : THMQ_BROKER_NO_CREATE),
				      &c->broker);
	if (rc == 0)
		rc = thmq_connect(c->env, "inproc://", NULL, &c->session);
	if (rc == 0)
		return 0;
	snprintf(why, sizeof(why), "%s", thmq_errmsg());
	if (rc == -EBUSY) {
		joined = join(c, dir);
		if (joined == 0)
			return 0;
		/* where nobody listens there is nothing to add: most processes have no socket */
		if (joined != -ECONNREFUSED)
			return fail_to_join(c, joined, why);
	}
	if (rc == -ENOENT && !create && (flag = strstr(why, ", and THMQ_BROKER_NO_CREATE")) != NULL)
		*flag = 0; /* a word of C, and ours */
	rc = fail(rc, "%s%s", why, rc == -ENOENT && !create ? "; thmq topic create, or thmq pub --create, makes it" : "");
	thmq_env_close(c->env, 0);
	return rc;
}

int disconnect(struct connection *c, int code)
{
	int rc = thmq_env_close(c->env, 30 * SECOND);

	if (rc && code == EXIT_OK)
		return fail(rc, "close: %s", thmq_strerror(rc));
	return code;
}
