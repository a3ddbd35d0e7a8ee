/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma_peer_test.c - over RDMA: peers that do not keep to the protocol, made of plain queue pairs; peers that die or hang; a
 * cable that is pulled or loses packets; a device that is taken away. Whoever does harm loses its connection in bounded
 * time; a well-behaved session beside it notices nothing; nothing is left behind.
 *
 * Needs two ports, 10.0.0.1 and 10.0.0.2, and the right to pull their cables: an emulated machine (tests/lab). On another one
 * THMQ_TEST_RDMA is the address of a port, THMQ_TEST_RDMA_FROM that of the port that its peers come from (the same one, if not
 * set), and nothing is pulled.
 * usage: rdma_peer_test [case ...]
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../lib/transport/rdma/medium.h"

#define SECOND 1000000000ull
#define MS 1000000ull
#define SILENCE (8 * SECOND)
#define PATIENCE (30 * SECOND) /* an emulated machine is slow */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s, line %d: %s (%s)\n", running, __LINE__, #x,           \
				thmq_errmsg());                                                    \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static const char *running = "child", *self;
static const char *here = "10.0.0.1", *there = "10.0.0.2";
static struct thmq_env *env;
static struct thmq_broker *broker;
static struct thmq_session *friend;
static struct thmq_producer *producer;
static struct thmq_consumer *consumer;
static char url[96];
static uint64_t next_number;

static uint64_t now(void)
{
	return thmqi_clock_real.now_ns(NULL);
}

static void nap(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};

	nanosleep(&t, NULL);
}

/* -------------------------------------------------------------- the good ones */

static void meet(void)
{
	CHECK(thmq_connect(env, url, THMQ_SESSION_OPTS(.peer_timeout_ns = SILENCE), &friend) == 0);
	CHECK(thmq_topic_create(
		      friend, "t",
		      THMQ_TOPIC_OPTS(.flags = THMQ_TOPIC_VOLATILE | THMQ_TOPIC_IF_ABSENT)) == 0);
	CHECK(thmq_producer_open(friend, "t", NULL, &producer) == 0);
	CHECK(thmq_consumer_open(friend, "t", NULL, THMQ_CONSUMER_OPTS(.start = THMQ_START_END),
				 &consumer) == 0);
}

static void up(void)
{
	char listen[64];

	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT,
						.pool_bytes = 256 << 20)) == 0);
	snprintf(listen, sizeof(listen), "rdma://%.40s:0", here);
	CHECK(thmq_broker_open(env, THMQ_BROKER_OPTS(.listen = listen, .peer_timeout_ns = SILENCE),
			       &broker) == 0);
	CHECK(thmq_broker_listen_url(broker, 0, url, 64) > 0);
	snprintf(url + strlen(url), sizeof(url) - strlen(url), "?from=%.40s", there);
	meet();
}

static bool send_and_get(uint32_t len)
{
	static uint8_t data[200000], want[8];
	uint64_t end = now() + PATIENCE;
	struct thmq_message m;
	bool same;
	int64_t rc;
	int n;

	next_number++;
	memcpy(want, &next_number, 8);
	memset(data, (int)next_number, len);
	memcpy(data, want, 8);
	while ((rc = thmq_send(producer, data, len, NULL)) == -EAGAIN && now() < end)
		thmq_session_wait(friend, MS);
	if (rc < 0)
		return false;
	do {
		while ((n = thmq_fetch(consumer, &m, 1)) == 0 && now() < end)
			if (thmq_session_wait(friend, 10 * MS) < 0)
				return false;
		if (n != 1)
			return false;
		same = m.len == len && memcmp(m.data, data, len) == 0;
		CHECK(same || memcmp(m.data, want, 8) != 0); /* another's, or whole */
		thmq_release(consumer, &m, 1);
	} while (!same);
	return true;
}

static void friend_is_well(void)
{
	bool well = send_and_get(8) && send_and_get(3000) && send_and_get(150000);
	struct thmq_event e;

	while (!well && thmq_events(friend, &e, 1) == 1)
		if (e.type == THMQ_EVENT_CLOSED)
			fprintf(stderr, "%s: closed, %d\n", running, e.error);
	CHECK(well);
}

static uint32_t sessions(void)
{
	struct thmq_broker_stats st = {.size = sizeof(st)};

	CHECK(thmq_broker_stats(broker, &st) == 0);
	return st.session_count;
}

static void only_the_friend_is_left(void)
{
	uint64_t end = now() + PATIENCE;

	while (sessions() != 1 && now() < end)
		nap(5 * MS);
	CHECK(sessions() == 1);
}

/* ------------------------------------------------------- peers of another kind */

struct raw {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	uint8_t *memory; /* of 64 KiB: the upper half receives */
	uint32_t chunks;
	uint32_t number;
	bool rejected;
	int status; /* as we were told when we were rejected */
};

#define RAW_BYTES 65536u

static enum rdma_cm_event_type event_of(struct raw *r, uint64_t ns, struct rdma_cm_event **ret)
{
	struct pollfd p = {.fd = r->channel->fd, .events = POLLIN};

	if (poll(&p, 1, (int)(ns / MS)) != 1)
		return RDMA_CM_EVENT_TIMEWAIT_EXIT;
	CHECK(rdma_get_cm_event(r->channel, ret) == 0);
	return (*ret)->event;
}

static void await(struct raw *r, enum rdma_cm_event_type type)
{
	struct rdma_cm_event *e = NULL;

	CHECK(event_of(r, PATIENCE, &e) == type);
	rdma_ack_cm_event(e);
}

static void raw_open(struct raw *r, uint32_t receives)
{
	struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
	struct ibv_qp_init_attr init = {.qp_type = IBV_QPT_RC,
					.sq_sig_all = 1,
					.cap = {.max_send_wr = 64,
						.max_recv_wr = 64,
						.max_send_sge = 1,
						.max_recv_sge = 1}};
	uint32_t i;

	memset(r, 0, sizeof(*r));
	CHECK(inet_pton(AF_INET, there, &from.sin_addr) == 1 &&
	      inet_pton(AF_INET, here, &to.sin_addr) == 1);
	to.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
	r->channel = rdma_create_event_channel();
	CHECK(r->channel && rdma_create_id(r->channel, &r->id, NULL, RDMA_PS_TCP) == 0);
	CHECK(rdma_resolve_addr(r->id, (struct sockaddr *)&from, (struct sockaddr *)&to, 5000) ==
	      0);
	await(r, RDMA_CM_EVENT_ADDR_RESOLVED);
	CHECK(rdma_resolve_route(r->id, 5000) == 0);
	await(r, RDMA_CM_EVENT_ROUTE_RESOLVED);
	r->pd = ibv_alloc_pd(r->id->verbs);
	r->cq = ibv_create_cq(r->id->verbs, 256, NULL, NULL, 0);
	r->memory = aligned_alloc(4096, RAW_BYTES);
	memset(r->memory, 0, RAW_BYTES);
	r->mr = ibv_reg_mr(r->pd, r->memory, RAW_BYTES,
			   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
	CHECK(r->pd && r->cq && r->mr);
	init.send_cq = init.recv_cq = r->cq;
	CHECK(rdma_create_qp(r->id, r->pd, &init) == 0);
	for (i = 0; i < receives; i++) {
		struct ibv_sge sge = {.addr = (uintptr_t)r->memory + RAW_BYTES / 2,
				      .length = RAW_BYTES / 2,
				      .lkey = r->mr->lkey};
		struct ibv_recv_wr *bad, wr = {.wr_id = 1, .sg_list = &sge, .num_sge = 1};

		CHECK(ibv_post_recv(r->id->qp, &wr, &bad) == 0);
	}
}

static void raw_connect(struct raw *r, const void *data, uint8_t len)
{
	struct rdma_conn_param param = {.private_data = data,
					.private_data_len = len,
					.responder_resources = 4,
					.initiator_depth = 4,
					.retry_count = 7,
					.rnr_retry_count = 1};
	struct rdma_cm_event *e = NULL;
	enum rdma_cm_event_type type;
	struct rdma_ask a;

	CHECK(rdma_connect(r->id, &param) == 0);
	type = event_of(r, PATIENCE, &e);
	CHECK(type == RDMA_CM_EVENT_ESTABLISHED || type == RDMA_CM_EVENT_REJECTED);
	r->rejected = type == RDMA_CM_EVENT_REJECTED;
	if (r->rejected) {
		CHECK(e->param.conn.private_data_len >= sizeof(a));
		memcpy(&a, e->param.conn.private_data, sizeof(a));
		r->status = a.status;
	}
	rdma_ack_cm_event(e);
}

static void raw_close(struct raw *r)
{
	rdma_destroy_qp(r->id);
	ibv_dereg_mr(r->mr);
	ibv_destroy_cq(r->cq);
	ibv_dealloc_pd(r->pd);
	rdma_destroy_id(r->id);
	rdma_destroy_event_channel(r->channel);
	free(r->memory);
}

static struct rdma_ask good_ask(void)
{
	struct rdma_ask a = {.magic = RDMA_ASK_MAGIC,
			     .version = RDMA_ASK_VERSION,
			     .bytes = sizeof(a),
			     .slot_bytes = RDMA_SLOT_BYTES,
			     .credits = 32};

	a.crc = thmqi_crc32c(0, &a, offsetof(struct rdma_ask, crc));
	return a;
}

static void raw_post(struct raw *r, enum ibv_wr_opcode opcode, uint32_t len, uint64_t to,
		     uint32_t key)
{
	struct ibv_sge sge = {.addr = (uintptr_t)r->memory, .length = len, .lkey = r->mr->lkey};
	struct ibv_send_wr *bad, wr = {.opcode = opcode,
				       .sg_list = &sge,
				       .num_sge = 1,
				       .send_flags = IBV_SEND_SOLICITED,
				       .wr = {.rdma = {.remote_addr = to, .rkey = key}}};

	CHECK(ibv_post_send(r->id->qp, &wr, &bad) == 0);
}

/* Waits for it: what it was sent from is used again. */
static void raw_chunk(struct raw *r, const void *bytes, uint32_t len)
{
	struct rdma_chunk h = {.len = len};
	uint64_t end = now() + PATIENCE;
	struct ibv_wc wc;
	int n;

	memcpy(r->memory, &h, sizeof(h));
	memcpy(r->memory + sizeof(h), bytes, len);
	raw_post(r, IBV_WR_SEND, (uint32_t)sizeof(h) + len, 0, 0);
	do
		n = ibv_poll_cq(r->cq, 1, &wc);
	while ((n == 0 || (n == 1 && wc.wr_id)) && now() < end);
}

static void raw_frame(struct raw *r, struct thmqi_frame f)
{
	struct thmqi_frame sealed;

	thmqi_stream_seal(&sealed, &f, r->number++);
	raw_chunk(r, &sealed, sizeof(sealed));
}

/* What it adds to the place and the key of its data area. */
static uint64_t lie_at;
static uint32_t lie_key;

static void raw_hello(struct raw *r, uint32_t shard)
{
	struct thmqi_hello h = {.shard = shard,
				.capabilities = THMQI_HELLO_ELSEWHERE | THMQI_HELLO_GRANTS,
				.area_bytes = 65536,
				.up_frames = 64,
				.ctl_frames = 64,
				.down_frames = 64,
				.silence_ms = 60000,
				.area_at = (uintptr_t)r->memory + lie_at,
				.area_key = r->mr->rkey + lie_key};

	thmqi_hello_seal(&h, THMQI_HELLO_CLIENT);
	raw_chunk(r, &h, sizeof(h));
}

static void raw_member(struct raw *r, uint32_t receives) /* as far as a good one gets */
{
	struct rdma_ask a = good_ask();

	raw_open(r, receives);
	raw_connect(r, &a, sizeof(a));
	CHECK(!r->rejected);
	raw_hello(r, 0);
}

/* The broker has had enough of it. */
static void raw_is_left(struct raw *r)
{
	struct rdma_cm_event *e = NULL;

	CHECK(event_of(r, PATIENCE, &e) == RDMA_CM_EVENT_DISCONNECTED);
	rdma_ack_cm_event(e);
	raw_close(r);
	only_the_friend_is_left();
	friend_is_well();
}

/* --------------------------------------------------------------------- cases */

static void strange_requests(void)
{
	struct rdma_ask a = good_ask(), b;
	struct raw r;
	int i;

	for (i = 0; i < 5; i++) {
		b = a;
		b.magic ^= i == 1;
		b.version += i == 2;
		b.crc ^= i == 3;
		if (i == 4) {
			b.credits = 1;
			b.crc = thmqi_crc32c(0, &b, offsetof(struct rdma_ask, crc));
		}
		raw_open(&r, 4);
		raw_connect(&r, &b, i ? sizeof(b) : 0);
		CHECK(r.rejected);
		CHECK(r.status == (i == 2 ? -THMQ_EVERSION : i == 4 ? -EINVAL : -EPROTO));
		raw_close(&r);
	}
	b = a;
	b.shard = 77; /* there is none */
	b.crc = thmqi_crc32c(0, &b, offsetof(struct rdma_ask, crc));
	raw_open(&r, 4);
	raw_connect(&r, &b, sizeof(b));
	CHECK(r.rejected && r.status == -ECONNREFUSED);
	raw_close(&r);
	friend_is_well();
}

static void silent_ones(void)
{
	struct rdma_ask a = good_ask();
	struct raw r;

	raw_open(&r, 4); /* it never greets */
	raw_connect(&r, &a, sizeof(a));
	CHECK(!r.rejected);
	raw_is_left(&r);
	raw_member(&r, 16); /* it greets, and says nothing more */
	raw_is_left(&r);
}

static void strange_chunks(void)
{
	struct rdma_ask a = good_ask();
	struct rdma_chunk h = {.returned = 5};
	uint8_t junk[256];
	struct raw r;

	raw_open(&r, 16); /* no greeting, but bytes */
	raw_connect(&r, &a, sizeof(a));
	memset(junk, 0x5a, sizeof(junk));
	raw_chunk(&r, junk, sizeof(junk));
	raw_is_left(&r);
	raw_member(&r, 16); /* bytes that are no frame */
	raw_chunk(&r, junk, sizeof(junk));
	raw_is_left(&r);
	raw_member(&r, 16); /* shorter than its header */
	raw_post(&r, IBV_WR_SEND, 3, 0, 0);
	raw_is_left(&r);
	raw_member(&r, 16); /* gives back what it never got */
	h.returned = 1000;
	memcpy(r.memory, &h, sizeof(h));
	raw_post(&r, IBV_WR_SEND, sizeof(h), 0, 0);
	raw_is_left(&r);
	raw_member(&r, 16); /* longer than a receive */
	raw_post(&r, IBV_WR_SEND, RDMA_SLOT_BYTES + 8, 0, 0);
	raw_is_left(&r);
}

static void more_than_its_credits(void)
{
	struct thmqi_frame f = {.type = THMQI_STREAM_STATE};
	struct raw r;
	int i;

	raw_member(&r, 64);
	for (i = 0; i < 60; i++) { /* all at once: the broker cannot keep up with giving back */
		struct rdma_chunk h = {.len = sizeof(f)};

		memcpy(r.memory, &h, sizeof(h));
		raw_post(&r, IBV_WR_SEND, sizeof(h) + sizeof(f), 0, 0);
	}
	raw_is_left(&r);
}

static void wrong_keys_and_places(void)
{
	struct thmqi_frame produce = {.type = THMQI_FRAME_PRODUCE,
				      .len = 4096,
				      .extra = THMQI_PRODUCE_ELSEWHERE,
				      .flags = 1,
				      .seq = 1};
	struct thmqi_frame grant = {
		.type = THMQI_STREAM_GRANT, .len = 100, .data = 0x1000, .arg = {7, 9}};
	struct raw r;

	lie_key = 1; /* a key that is none */
	raw_member(&r, 16);
	raw_frame(&r, produce);
	raw_is_left(&r);
	lie_key = 0;
	lie_at = 1ull << 30; /* a place that is not its */
	raw_member(&r, 16);
	raw_frame(&r, produce);
	raw_is_left(&r);
	lie_at = 0;
	raw_member(&r, 16); /* to a place outside of its area */
	produce.data = 65536 - 100;
	raw_frame(&r, produce);
	raw_is_left(&r);
	raw_member(&r, 16); /* leave for what was not offered */
	raw_frame(&r, grant);
	raw_is_left(&r);
	raw_member(&r, 16); /* what only a broker says */
	grant.type = THMQI_STREAM_OFFER;
	raw_frame(&r, grant);
	raw_is_left(&r);
}

/* Nothing of the broker's can be reached, whatever the key. */
static void hands_off(void)
{
	struct raw r;
	uint32_t key;

	for (key = 1; key < 0x4000; key = key * 3 + 1) {
		raw_member(&r, 16);
		raw_post(&r, key % 2 ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ, 64,
			 (uintptr_t)producer, key);
		raw_is_left(&r);
	}
}

static void receiver_not_ready(void)
{
	struct raw r;

	raw_member(&r, 0); /* it has no receive for the answer */
	raw_is_left(&r);
}

/* ------------------------------------------------------------ other processes */

static pid_t start(int *ret_out)
{
	int out[2];
	pid_t pid;
	char c;

	CHECK(pipe(out) == 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execl(self, self, "--client", url, (char *)NULL);
		_exit(1);
	}
	close(out[1]);
	CHECK(read(out[0], &c, 1) == 1); /* it has begun */
	*ret_out = out[0];
	return pid;
}

/* Publishes and consumes, big and small, until it is ended. Exit: 3 its session was closed. */
static int client(const char *to)
{
	struct thmq_event e;
	uint64_t i;
	int rc;

	snprintf(url, sizeof(url), "%s", to);
	CHECK(thmq_env_open(&env, THMQ_ENV_OPTS(.core_count = 1, .flags = THMQ_ENV_NO_PIN,
						.policy = THMQ_POLICY_EVENT)) == 0);
	meet();
	next_number = (uint64_t)getpid() << 32;
	for (i = 0; send_and_get(i % 3 ? 100 : 100000); i++)
		if (i == 5 && write(STDOUT_FILENO, "x", 1) != 1)
			return 1;
	while (thmq_events(friend, &e, 1) == 1)
		if (e.type == THMQ_EVENT_CLOSED)
			fprintf(stderr, "client: closed, %d\n", e.error);
	rc = thmq_send(producer, "x", 1, NULL) == -ESHUTDOWN ? 3 : 1;
	thmq_env_close(env, SECOND);
	return rc;
}

static void killed(void)
{
	int i, out, status;
	pid_t pid;

	for (i = 0; i < 3; i++) {
		pid = start(&out);
		CHECK(sessions() == 2);
		nap((uint64_t)i * 50 * MS);
		kill(pid, SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		close(out);
		only_the_friend_is_left();
		friend_is_well();
	}
}

static void stopped(void)
{
	int out, status;
	pid_t pid = start(&out);

	kill(pid, SIGSTOP); /* its device goes on acknowledging */
	only_the_friend_is_left();
	friend_is_well();
	kill(pid, SIGCONT);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	close(out);
}

/* ------------------------------------------------------------------- the cable */

static void run(const char *command)
{
	CHECK(system(command) == 0);
}

/* The session was lost: it says so, and another one is made. */
static void meet_again(void)
{
	uint64_t end = now() + PATIENCE;

	while (thmq_send(producer, "x", 1, NULL) != -ESHUTDOWN && now() < end)
		thmq_session_wait(friend, 10 * MS);
	CHECK(thmq_send(producer, "x", 1, NULL) == -ESHUTDOWN);
	CHECK(thmq_session_close(friend, SECOND) == 0);
	meet();
}

/*
 * Small messages get through. Of a large one, read as dozens of packets, Soft-RoCE may lose some at each of its tries, and give
 * the connection up: then that is said, and what arrives is whole all the same.
 */
static void loses_packets(void)
{
	int i, lost = 0;

	run("modprobe sch_netem && tc qdisc add dev cable1 root netem loss 3% delay 1ms reorder "
	    "5%");
	for (i = 0; i < 20; i++)
		CHECK(send_and_get(i % 2 ? 8 : 3000));
	for (i = 0; i < 5; i++) {
		if (send_and_get(150000))
			continue;
		lost++;
		meet_again();
	}
	run("tc qdisc del dev cable1 root");
	if (lost)
		printf("   (%d of 5 connections were given up)\n", lost);
	friend_is_well();
	only_the_friend_is_left();
}

/*
 * The device sends again until the cable is back. It is not pulled by setting a port down: Soft-RoCE takes a port without a way to
 * the other side for an error of whoever sends then, and a port whose connection manager has sent in such a moment receives
 * nothing for it any more.
 */
static void pulled_for_a_moment(void)
{
	run("modprobe sch_netem && tc qdisc add dev cable1 root netem loss 100% && "
	    "tc qdisc add dev cable0 root netem loss 100%");
	nap(300 * MS);
	run("tc qdisc del dev cable1 root; tc qdisc del dev cable0 root");
	if (!send_and_get(8) || !send_and_get(3000) || !send_and_get(150000)) {
		/* for a machine this slow a moment may be longer than a device's patience */
		printf("   (the connection was lost meanwhile)\n");
		meet_again();
	}
	friend_is_well();
	only_the_friend_is_left();
}

static void pulled(void)
{
	uint64_t end;
	struct thmq_event e = {0};

	run("modprobe sch_netem && tc qdisc add dev cable1 root netem loss 100%");
	run("tc qdisc add dev cable0 root netem loss 100%");
	for (end = now() + PATIENCE; e.type != THMQ_EVENT_CLOSED && now() < end;)
		if (thmq_events(friend, &e, 1) != 1)
			thmq_session_wait(friend, 10 * MS);
	CHECK(e.type == THMQ_EVENT_CLOSED && e.error < 0);
	for (end = now() + PATIENCE; sessions() && now() < end;)
		nap(5 * MS);
	CHECK(sessions() == 0);
	run("tc qdisc del dev cable1 root; tc qdisc del dev cable0 root");
	CHECK(thmq_session_close(friend, SECOND) == 0);
	meet(); /* as a new connection */
	friend_is_well();
}

/* Last: the port does not come back as long as any process has it open. */
static void device_taken_away(void)
{
	uint64_t end = now() + PATIENCE;
	struct thmq_event e = {0};

	run("rdma link delete port1 &");
	for (; e.type != THMQ_EVENT_CLOSED && now() < end;)
		if (thmq_events(friend, &e, 1) != 1)
			thmq_session_wait(friend, 10 * MS);
	CHECK(e.type == THMQ_EVENT_CLOSED && e.error < 0);
	for (; sessions() && now() < end;)
		nap(5 * MS);
	CHECK(sessions() == 0); /* the broker's port is another one, and heard of it */
	CHECK(thmq_session_close(friend, SECOND) == 0);
	CHECK(thmq_connect(env, url, NULL, &friend) < 0);
	CHECK(thmq_connect(env, "inproc://", NULL, &friend) == 0);
}

static const struct {
	const char *name;
	void (*run)(void);
	bool pulls;
} cases[] = {
	{"strange_requests", strange_requests, false},
	{"silent_ones", silent_ones, false},
	{"strange_chunks", strange_chunks, false},
	{"more_than_its_credits", more_than_its_credits, false},
	{"wrong_keys_and_places", wrong_keys_and_places, false},
	{"hands_off", hands_off, false},
	{"receiver_not_ready", receiver_not_ready, false},
	{"killed", killed, false},
	{"stopped", stopped, false},
	{"loses_packets", loses_packets, true},
	{"pulled_for_a_moment", pulled_for_a_moment, true},
	{"pulled", pulled, true},
	{"device_taken_away", device_taken_away, true},
};

int main(int argc, char **argv)
{
	uint64_t begin;
	size_t i;
	int k;

	self = argv[0];
	if (argc == 3 && strcmp(argv[1], "--client") == 0)
		return client(argv[2]);
	if (getenv("THMQ_TEST_RDMA")) {
		here = there = getenv("THMQ_TEST_RDMA");
		if (getenv("THMQ_TEST_RDMA_FROM"))
			there = getenv("THMQ_TEST_RDMA_FROM");
	} else if (!getenv("THMQ_TEST_LAB")) {
		printf("skipped: no device is named; sh tests/lab/run.sh rdma_peer_test\n");
		return 77;
	}
	running = "begin";
	up();
	friend_is_well();
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		running = cases[i].name;
		for (k = 1; k < argc && strcmp(argv[k], running); k++)
			;
		if ((argc > 1 && k == argc) || (cases[i].pulls && !getenv("THMQ_TEST_LAB")))
			continue;
		begin = now();
		cases[i].run();
		printf("ok %s (%llu ms)\n", running, (unsigned long long)((now() - begin) / MS));
		fflush(stdout);
	}
	CHECK(thmq_env_close(env, 5 * SECOND) == 0);
	return 0;
}
