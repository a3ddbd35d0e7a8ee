/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.h - what lies between a session and a remote broker: transports of one's own, interceptors that watch or disturb what
 * moves, and a ready-made one that makes faults, for tests. doc/transports.md is a guide, examples/own_transport.c a whole program.
 *
 * All of it is about media that carry bytes in a stream: tcp://, tls://, and those that are registered here. Nothing of it costs
 * anything where it is not used.
 */
#ifndef THUNDERMQ_TRANSPORT_H
#define THUNDERMQ_TRANSPORT_H

#include <sys/uio.h>
#include <thundermq/thundermq.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --------------------------------------------------------- transports of one's own */

/*
 * How bytes get from here to there: behind a URL's scheme. A connection is a descriptor that does not block, whose readiness
 * poll(2) tells; what it carries comes in order, whole, once, or the connection ends. The library speaks its own protocol over it:
 * greetings, frames, credits, signs of life. Any socket will do (a pair, AF_UNIX, AF_VSOCK), a pipe to a helper, or, with send and
 * recv, anything that can tell readiness by an eventfd.
 *
 * Errors are negative errno. All calls but check and listen come from a core's thread: they never block. A descriptor is the
 * library's from the call that gave it until close. Who claims to have moved more than it was given loses that connection, -EPROTO.
 */
struct thmq_transport {
	uint32_t size;      /* sizeof(struct thmq_transport) */
	uint32_t flags;     /* none yet */
	const char *scheme; /* a-z 0-9 + . -, as in "mine://…" */
	void *ctx;          /* first argument of all */
	/* Is @url well-formed? 0, or an error. NULL: all are. */
	int (*check)(void *ctx, const char *url);
	/* Begin to connect: *@ret_fd becomes writable when there is a connection, and tells an error as a socket does, or by send. */
	int (*connect)(void *ctx, const char *url, int *ret_fd);
	/*
	 * Listen: *@ret_fd becomes readable when somebody is there to be accepted. @ret_url, @url_size bytes, has @url, and may be made
	 * what a client has to say. NULL: nobody listens by it.
	 */
	int (*listen)(void *ctx, const char *url, int *ret_fd, char *ret_url, uint32_t url_size);
	/* Who is there? 0; -EAGAIN nobody (any more); another error: of that one. NULL: accept4(2) */
	int (*accept)(void *ctx, int listen_fd, int *ret_fd);
	/* As sendmsg(2) and recvmsg(2): bytes; -EAGAIN not now, and the descriptor tells when; 0 of recv: the end. NULL: these. */
	int64_t (*send)(void *ctx, int fd, const struct iovec *iov, uint32_t iov_count);
	int64_t (*recv)(void *ctx, int fd, const struct iovec *iov, uint32_t iov_count);
	/* Of all three kinds of descriptors. NULL: close(2) */
	void (*close)(void *ctx, int fd);
};

/**
 * thmq_transport_register() - add a transport to an environment
 * @transport: copied, with its scheme; its functions and ctx must live until the environment is closed
 * From then on its URLs can be listened on, .listen of thmq_broker_open(), and connected to, thmq_connect().
 * Return: 0; -EINVAL; -EEXIST the scheme is taken; -ENOSPC there are too many; -ENOMEM; -E2BIG larger than known.
 * Threads: any, while no other opens a broker or connects in @env.
 */
THMQ_API int thmq_transport_register(struct thmq_env *env, const struct thmq_transport *transport);

/* ------------------------------------------------------------------- interceptors */

/* A connection, as an interceptor sees it. Grows at the end. */
struct thmq_connection {
	uint32_t size;
	uint32_t of_broker; /* 1: the broker's end; 0: the session's */
	uint64_t number;    /* 1, 2, 3 … in its environment */
	const char *scheme; /* during the call */
};

/* What is about to be sent or received, and what shall become of it. */
struct thmq_intercept {
	uint64_t now_ns;  /* the core's clock */
	uint64_t bytes;   /* how many at most; may be made less, but not 0 */
	uint64_t wait_ns; /* 0; else: not now, but in so long, when it is asked again */
	int32_t error;    /* 0; else: the connection ends with it, such as -ECONNRESET */
	uint32_t flags;   /* 0, or THMQ_INTERCEPT_LOSE */
};

#define THMQ_INTERCEPT_LOSE 1u /* these bytes never arrive: what follows them does */

/*
 * Looks at each sending and receiving of a connection, above encryption, below the protocol. Several of an environment are asked in the order in
 * which they were added, and all that they want happens. Each function may be NULL. They are called on the core of the
 * connection, one at a time for each connection, and must not block.
 */
struct thmq_interceptor {
	uint32_t size;  /* sizeof(struct thmq_interceptor) */
	uint32_t flags; /* none yet */
	void *ctx;
	/* A connection begins. *@ret_state is the state of the other functions. An error ends it. */
	int (*open)(void *ctx, const struct thmq_connection *connection, void **ret_state);
	/* It has ended, with @error. */
	void (*close)(void *state, int error);
	void (*before_send)(void *state, struct thmq_intercept *what);
	/* The first @bytes of these have gone, or were lost. */
	void (*sent)(void *state, const struct iovec *iov, uint32_t iov_count, uint64_t bytes);
	void (*before_receive)(void *state, struct thmq_intercept *what);
	/* The first @bytes of these have come, and may be changed. */
	void (*received)(void *state, const struct iovec *iov, uint32_t iov_count, uint64_t bytes);
};

/**
 * thmq_transport_intercept() - add an interceptor to an environment
 * @interceptor: copied; what it refers to must live until the environment is closed
 * It is asked of all connections that are made from then on, on both ends that lie in @env.
 * Return: 0; -EINVAL; -ENOSPC there are four; -E2BIG larger than known.
 * Threads: any, while no other opens a broker or connects in @env.
 */
THMQ_API int thmq_transport_intercept(struct thmq_env *env,
				      const struct thmq_interceptor *interceptor);

/* --------------------------------------------------------------------------- faults */

/* Which faults, and how often: all 0, none. Chances are of a million sendings and receivings. */
struct thmq_fault_opts {
	uint32_t size;
	uint32_t flags; /* THMQ_FAULT_* */
	uint64_t seed;  /* of chance: the same seed, the same faults of the n-th connection */
	uint64_t
		reset_bytes_min; /* a connection is reset after so many bytes, both ways together … */
	uint64_t reset_bytes_max; /* … up to so many, by chance; 0: it is not */
	uint32_t lose_ppm;        /* bytes get lost */
	uint32_t corrupt_ppm;     /* a bit of what was received is turned */
	uint32_t delay_ppm;       /* it waits … */
	uint32_t stall_ppm;       /* the connection neither sends nor receives for stall_ns */
	uint64_t delay_ns;        /* … up to so long */
	uint64_t stall_ns;
	uint32_t short_ppm; /* only some of the bytes go, or come, at a time */
	uint32_t reserved;
};

#define THMQ_FAULT_SESSION 1u /* only on the sessions' ends */
#define THMQ_FAULT_BROKER 2u  /* only on brokers' ends; neither of both: on each */

#define THMQ_FAULT_OPTS(...)                                                                       \
	(&(struct thmq_fault_opts){.size = sizeof(struct thmq_fault_opts), __VA_ARGS__})

/** thmq_fault_opts_init() - set @opts to no faults */
THMQ_API void thmq_fault_opts_init(struct thmq_fault_opts *opts, uint32_t size);
#define thmq_fault_opts_init(opts) thmq_fault_opts_init((opts), sizeof(struct thmq_fault_opts))

struct thmq_fault;

/**
 * thmq_fault_open() - make faults on an environment's connections
 * An interceptor: connections that are there already are not touched.
 * Return: 0; -EINVAL; -ENOSPC there are four interceptors; -ENOMEM; -E2BIG.
 * Threads: as thmq_transport_intercept(). Owner: the environment, until it is closed.
 */
THMQ_API int thmq_fault_open(struct thmq_env *env, const struct thmq_fault_opts *opts,
			     struct thmq_fault **ret_fault);

/**
 * thmq_fault_set() - other faults from now on; NULL: none
 * Connections that are there keep the number of bytes that they are reset after, but are reset only if @opts says that some are.
 * Return: 0; -EINVAL; -E2BIG. Threads: any.
 */
THMQ_API int thmq_fault_set(struct thmq_fault *fault, const struct thmq_fault_opts *opts);

/* What has happened so far. Grows at the end. */
struct thmq_fault_stats {
	uint32_t size; /* in */
	uint32_t reserved;
	uint64_t connections;
	uint64_t bytes;
	uint64_t resets, losses, corruptions, delays, stalls, shortened;
};

/** thmq_fault_stats() - copy the counters. Return: 0; -EINVAL size is 0. Threads: any. */
THMQ_API int thmq_fault_stats(struct thmq_fault *fault, struct thmq_fault_stats *ret_stats);

#ifdef __cplusplus
}
#endif
#endif
