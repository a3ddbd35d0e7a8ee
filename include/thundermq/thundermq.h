/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thundermq.h - the application's face of libthundermq.
 *
 * A process opens an environment (memory, cores, clock), opens a broker on a directory, and connects
 * sessions to it. Handles are opaque; every call returns 0 or a count, or a negative error (see
 * thmq_strerror()); thmq_errmsg() explains the last failed control call of the calling thread.
 *
 * Threads: a session and all that was opened on it belong to one thread at a time. Environments and
 * brokers may be used from any thread unless a call says otherwise. No call prints, aborts or exits. A child of fork(2) has none of its
 * parent's handles: control calls by them are -EINVAL, and data calls (claim, send, fetch, ack and the like, which do not look) must not be made there.
 *
 * Options: all zero is the default, but for size: sizeof the struct as the program was compiled with it. The THMQ_..._OPTS() macros
 * set it; they are C only (the address of a compound literal). In C++: struct thmq_env_opts o = {}; o.size = sizeof(o); or
 * thundermq.hpp; or thmq_env_opts_init(&o), and so for each of them: a macro of the function's name gives the function that size as
 * well, so that no more is written than the program has, whichever version of the library it meets.
 */
#ifndef THUNDERMQ_THUNDERMQ_H
#define THUNDERMQ_THUNDERMQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define THMQ_API __attribute__((visibility("default")))
#else
#define THMQ_API
#endif

#define THMQ_VERSION_MAJOR 0
#define THMQ_VERSION_MINOR 1
#define THMQ_VERSION_PATCH 0

struct thmq_env;
struct thmq_broker;
struct thmq_session;
struct thmq_producer;
struct thmq_txn;
struct thmq_consumer;

/* ------------------------------------------------------------------ limits */

#define THMQ_TOPIC_NAME_MAX 249u /* bytes, without the final NUL */
#define THMQ_GROUP_NAME_MAX 249u
#define THMQ_KEY_MAX 4096u /* bytes of a message key */
#define THMQ_TAG_MAX 255u  /* bytes of a message tag */
#define THMQ_MESSAGE_MAX (64u << 20) /* bytes of a payload, where the session's window has room for them */
#define THMQ_HEADER_NAME_MAX 255u /* bytes of a header's name, without the final NUL */
#define THMQ_HEADERS_MAX 65000u /* bytes of all headers of a message: names, values, and 5 for each */
#define THMQ_PARTITION_COUNT_MAX 65536u
#define THMQ_PRIORITIES_MAX 10u /* of a topic */
#define THMQ_SHARD_COUNT_MAX 1024u
#define THMQ_CORE_COUNT_MAX 256u

/* ------------------------------------------------------------------ errors */

/* Errors beyond errno's. Every call returns them negated. Numbers are never reused. */
enum thmq_error {
	THMQ_ECORRUPT = 1024,     /* stored bytes fail their check; nothing was changed */
	THMQ_ENOTLEADER = 1025,   /* this copy does not lead the shard */
	THMQ_EFENCED = 1026,      /* a newer owner has taken over this producer or membership */
	THMQ_EOFFSETRANGE = 1027, /* the offset is outside what the partition holds */
	THMQ_EVERSION = 1028,     /* data or peer of a version that this library does not speak */
	THMQ_ENOTOPIC = 1029,     /* no such topic */
	THMQ_ENOPARTITION = 1030, /* no such partition in the topic */
	THMQ_EFAILED = 1031,      /* the shard failed (device error) and serves reads only */
	THMQ_ECONFLICT = 1032,    /* the partition's end, or a key's newest message, is another than the one expected */
	THMQ_ENOQUORUM = 1033     /* too few copies are there to store anything: what is committed can be read */
};

/* What a caller can do about an error. */
enum thmq_error_class {
	THMQ_CLASS_OK = 0,
	THMQ_CLASS_RETRY = 1,        /* transient: the same call may succeed later */
	THMQ_CLASS_BACKPRESSURE = 2, /* full: poll, fetch or release, then try again */
	THMQ_CLASS_HANDLE = 3,       /* this handle is dead: close it and open another */
	THMQ_CLASS_ENVIRONMENT = 4,  /* the environment, device or directory is at fault */
	THMQ_CLASS_CALLER = 5        /* a mistake of the caller: retrying will not help */
};

/**
 * thmq_errmsg() - text for the last failed control call of the calling thread
 * Return: never NULL; "" if none failed yet; valid until the thread's next failing call. Data-plane
 * calls (claim, commit, abort, send, watermark, fetch, ack, nack, extend, reject, release, responses, poll, events) never set it; of thmq_request() and
 * thmq_reply() only what they open at first does.
 */
THMQ_API const char *thmq_errmsg(void);

/**
 * thmq_strerror() - what an error number means, in words
 * @error: a returned value (negative) or its absolute value
 * Return: a constant string, never NULL.
 */
THMQ_API const char *thmq_strerror(int error);

/**
 * thmq_errname() - the symbolic name of an error, such as "EAGAIN" or "THMQ_ECORRUPT"
 * @error: negative or absolute value
 * Return: a constant string; "EUNKNOWN" for numbers that are not known here.
 */
THMQ_API const char *thmq_errname(int error);

/**
 * thmq_errclass() - what a caller can do about an error
 * @error: negative or absolute value
 * Return: an enum thmq_error_class.
 */
THMQ_API int thmq_errclass(int error);

/**
 * thmq_version() - version of the linked library, such as "0.1.0"
 * Return: a constant string.
 */
THMQ_API const char *thmq_version(void);

/**
 * thmq_version_number() - the same as major * 1000000 + minor * 1000 + patch
 */
THMQ_API uint32_t thmq_version_number(void);

/* --------------------------------------------------------------- durability */

/*
 * What an acknowledgement proves: a ladder, each rung includes the ones before it. QUORUM and ALL need
 * more than one copy; with one copy they mean DURABLE.
 */
enum thmq_durability {
	THMQ_DURABILITY_DEFAULT = 0, /* in options: the level of the enclosing object */
	THMQ_DURABILITY_MEMORY = 1,  /* the broker has it in memory */
	THMQ_DURABILITY_WRITTEN = 2, /* the device took it, perhaps into its volatile cache; see thmq_topic_opts.visible_at */
	THMQ_DURABILITY_DURABLE = 3, /* it and everything before it in its shard is on the medium */
	THMQ_DURABILITY_QUORUM = 4,  /* durable on a majority of the copies */
	THMQ_DURABILITY_ALL = 5      /* durable on all copies */
};

/* -------------------------------------------------------------- environment */

/* How a core waits for work. */
enum thmq_policy {
	THMQ_POLICY_DEFAULT = 0, /* the one that measures best; today: THMQ_POLICY_ADAPTIVE, and THMQ_POLICY_EVENT for more pinned
				    cores than the process has processors, or a quota of its control group lets it use */
	THMQ_POLICY_POLL = 1,    /* spin for ever: lowest latency, a whole processor */
	THMQ_POLICY_EVENT = 2,   /* sleep as soon as nothing is to do */
	THMQ_POLICY_FIXED = 3,   /* spin for spin_ns, then sleep */
	/* These weigh what spinning costs against what a sleep costs: wake_cpu_ns + latency_worth * wake_latency_ns. */
	THMQ_POLICY_SKI = 4,       /* spin for as long as a sleep costs: at most twice the best, whatever comes */
	THMQ_POLICY_ADAPTIVE = 5,  /* spin for as long as has paid of late, by a histogram of the gaps between work; perhaps not at all */
	THMQ_POLICY_PREDICTIVE = 6 /* by a forecast of the traffic, while that has proven good; else as ADAPTIVE */
};

struct thmq_env_opts {
	uint32_t size;       /* sizeof(struct thmq_env_opts) */
	uint32_t flags;      /* THMQ_ENV_* */
	uint32_t core_count; /* cores driven by pinned threads of the library; 0: none */
	uint32_t
		caller_cores; /* with core_count 0: cores driven by the host's threads; 0 means 1 */
	uint64_t pool_bytes;  /* limit of the memory pool over all cores; 0 means 1 GiB, or 128 MiB for each core if that is more */
	uint32_t policy;      /* enum thmq_policy */
	uint32_t
		first_cpu; /* with THMQ_ENV_FIRST_CPU: pin core i to the (first_cpu + i)-th allowed CPU; it must exist */
	uint64_t spin_ns; /* THMQ_POLICY_FIXED: how long it spins, 0 means 20000; SKI, ADAPTIVE, PREDICTIVE: at most, 0 means 1000000 */
	/* With core_count: where the pinned cores go; see thmq_env_plan(). The strings are needed during the open only. */
	const char *cpus;      /* core i on the i-th of these, by the system's numbers: "2-5,8"; NULL: chosen */
	const char *near_path; /* near the device of this file or directory, such as the data directory to be */
	const char *near_nic;  /* near this network interface or RDMA device; behind near_path where both are given */
	/* How a core weighs what it spends on waiting; for FIXED cpu_cap_percent only. doc/polling.md tells more. */
	uint32_t cpu_cap_percent; /* of a processor: a core whose share is above this spins less, down to not at all, 1 … 100; 0: no cap */
	uint32_t latency_worth;   /* a microsecond of latency is worth so many of processor time, up to 100000; 0 means 10 */
	/* What a sleep costs, up to 1 s: the core's processor time, and how long its wake-up takes. 0: measured at the open, which
	 * takes about a millisecond, and learned from then on: the processor time at every eighth sleep, the wake-up whenever a thread of
	 * the process makes one */
	uint32_t wake_cpu_ns;
	uint32_t wake_latency_ns;
};

#define THMQ_ENV_FIRST_CPU 1u /* first_cpu is set */
#define THMQ_ENV_NO_PIN 2u    /* do not pin the library's threads */
#define THMQ_ENV_ALLOW_THREADS                                                                     \
	4u /* caller-driven: threads may be made, for disk I/O where io_uring is refused, to forecast for THMQ_POLICY_PREDICTIVE, and to look a
	      broker's name up again while a session reconnects */
#define THMQ_ENV_NO_URING 8u /* never use io_uring */
#define THMQ_ENV_LOCK_MEMORY                                                                       \
	16u /* keep the pool in memory (mlock), as far as the limit of locked memory goes: see locked_bytes */

#define THMQ_ENV_OPTS(...)                                                                         \
	(&(struct thmq_env_opts){.size = sizeof(struct thmq_env_opts), __VA_ARGS__})

/**
 * thmq_env_opts_init() - set @opts to the defaults, for C++ and bindings
 * @size: of the caller's struct, which the macro gives: thmq_env_opts_init(&opts). All ..._opts_init() are like that. NULL, and a @size
 *   that no version's struct has, are ignored. Threads: any.
 */
THMQ_API void thmq_env_opts_init(struct thmq_env_opts *opts, uint32_t size);
#define thmq_env_opts_init(opts) thmq_env_opts_init((opts), sizeof(struct thmq_env_opts))

/**
 * thmq_env_open() - open an environment: memory pool, cores, clock
 * @ret_env: out; the environment
 * @opts: options; NULL means one core, driven by the calling thread
 *
 * With core_count = n, n pinned threads of the library drive the cores; thmq_env_plan() tells where, thmq_env_place() where one
 * is. Otherwise no thread is made: the calling thread owns core 0 and drives it by thmq_poll() or by any blocking call; other threads
 * of the host take further cores by thmq_core_attach().
 *
 * Return: 0; -EINVAL unknown flag or value out of bounds, or a processor in cpus that the process may not use; -ENODEV no such
 * near_nic; -E2BIG larger options struct than known with something in its excess; -ENOMEM; -EAGAIN no thread could be made.
 * Threads: any. Owner: the app, until thmq_env_close().
 */
THMQ_API int thmq_env_open(struct thmq_env **ret_env, const struct thmq_env_opts *opts);

/**
 * thmq_env_close() - close an environment and all that is still open on it
 * @env: environment; NULL is allowed
 * @timeout_ns: how long producers and group offsets may take to settle
 *
 * Return: 0; -ETIMEDOUT closed, but something did not settle within the time; -EIO closed, but some messages failed since the last
 * thmq_flush() of their producers, also if THMQ_EVENT_FAILED has told; or another error of the close of a session or broker: closed; -EDEADLK called from a
 * core's callback, or a broker lies on a core without a thread: nothing was done. The handle and all handles below it are gone in every case but -EDEADLK.
 * Memory that was still in use (views that were not released) is gone too: thmq_errmsg() then tells by whom.
 * Threads: the opening thread; no other thread may use the environment any more.
 */
THMQ_API int thmq_env_close(struct thmq_env *env, uint64_t timeout_ns);

/**
 * thmq_core_attach() - make the calling thread the owner of a caller-driven core
 * @env: environment opened with caller_cores > @core_index
 * @core_index: which core; a thread may own several, and drives them together
 * Return: 0; -EINVAL no such core; -EBUSY owned by another thread; -EPERM cores are the library's; -EDEADLK called from a
 * callback; -ENOMEM no room to build the core's io_uring anew for this thread.
 */
THMQ_API int thmq_core_attach(struct thmq_env *env, uint32_t core_index);

/**
 * thmq_core_detach() - give up the calling thread's core, or all of them
 * Return: 0; -EPERM the calling thread owns none; -EDEADLK called from a callback.
 */
THMQ_API int thmq_core_detach(struct thmq_env *env);

/**
 * thmq_poll() - drive the calling thread's core, or all of its cores
 * @env: environment
 * @timeout_ns: 0: one round; else run rounds until something was done, sleeping as the policy allows
 *
 * Return: the amount of work done, 0 for none (with a time-out: the time has passed); -EPERM the calling
 * thread owns no core of @env; -EDEADLK called from a callback.
 * Threads: owner of a core.
 */
THMQ_API int thmq_poll(struct thmq_env *env, uint64_t timeout_ns);

/**
 * thmq_env_fd() - a file descriptor that becomes readable when the calling thread's core has work
 * @env: environment
 * Use: loop { while (thmq_poll(env, 0) > 0) ; if (thmq_env_arm(env) == 0) epoll_wait(...); }
 * Return: a descriptor owned by the environment (do not close or read it); -EPERM no core of the thread.
 */
THMQ_API int thmq_env_fd(struct thmq_env *env);

/**
 * thmq_env_arm() - announce that the calling thread will sleep on thmq_env_fd()
 * Return: 0 armed, the descriptor will become readable; 1 work is there already, poll first; -EPERM.
 */
THMQ_API int thmq_env_arm(struct thmq_env *env);

/* What an environment runs on, and what it has done. Grows at the end. */
struct thmq_env_stats {
	uint32_t size; /* in: sizeof of the caller's struct */
	uint32_t core_count;
	uint32_t
		uring_cores; /* cores with an io_uring; the others write through threads or inline */
	uint32_t pinned_cores;
	uint32_t
		registered_memory; /* 1: the pool is registered with the rings; 0: not (memlock limit) */
	uint32_t huge_pages;       /* 1: slabs on explicit huge pages */
	uint64_t pool_bytes;       /* memory taken from the system */
	uint64_t pool_in_use_bytes;
	uint64_t loops; /* iterations of all cores */
	uint64_t sleeps;
	uint64_t wakeups; /* wake-ups sent to sleeping cores */
	uint64_t writes;  /* device writes submitted */
	uint64_t write_bytes;
	uint64_t flushes;
	uint64_t reads;
	uint64_t read_bytes;
	uint32_t single_issuer_cores; /* cores whose io_uring is bound to its thread (Linux 6.0) … */
	uint32_t defer_taskrun_cores; /* … and runs completions only when that asks for them (6.1) */
	uint32_t polled_cores;        /* cores with a second io_uring whose completions are polled for */
	uint32_t quota_percent; /* what the control groups let the process use of processors: 150 are one and a half; 0: no limit */
	uint64_t locked_bytes; /* of pool_bytes, those locked by THMQ_ENV_LOCK_MEMORY */
	uint32_t policy;       /* enum thmq_policy in force, never DEFAULT */
	uint32_t reserved;
};

/**
 * thmq_env_stats() - copy the environment's counters
 * @ret_stats: in: its size field; out: the counters. They are a snapshot, each exact for its core.
 * Return: 0; -EINVAL size is 0.
 */
THMQ_API int thmq_env_stats(struct thmq_env *env, struct thmq_env_stats *ret_stats);

/* Where a core is, or would be. Numbers are the system's; -1: not known, or none. */
struct thmq_place {
	uint32_t size;         /* in: of each element */
	uint32_t flags;        /* THMQ_PLACE_* */
	int32_t cpu;           /* processor */
	int32_t node;          /* NUMA node of the processor */
	int32_t memory_node;   /* where the core's memory pool comes from, as far as that node has some; -1: anywhere */
	int32_t package;       /* socket */
	int32_t physical_core; /* counted over the machine: processors of the same one share it (SMT) */
	int32_t error;         /* why the core is not pinned, a negative error; 0: it is, or was not meant to be */
};

#define THMQ_PLACE_PINNED 1u      /* the core stays on this processor */
#define THMQ_PLACE_SIBLING 2u     /* a core before it is on the same physical core */
#define THMQ_PLACE_SHARED 4u      /* a core before it, or a thread of this process that is bound to it, is on the same processor */
#define THMQ_PLACE_EFFICIENCY 8u  /* on a processor that is slower than others of this machine */
#define THMQ_PLACE_NEAR_PATH 16u  /* close to the device of near_path */
#define THMQ_PLACE_NEAR_NIC 32u   /* close to near_nic */

/* What placement knows of the machine. */
struct thmq_machine {
	uint32_t size;           /* in */
	uint32_t cpu_count;      /* processors that the process may use: cpuset, affinity */
	uint32_t physical_count; /* physical cores that they belong to */
	uint32_t node_count;     /* NUMA nodes */
	uint32_t package_count;  /* sockets */
	uint32_t quota_percent;  /* as in struct thmq_env_stats */
	int32_t path_node;       /* node that the device of near_path hangs on; -1: not known */
	int32_t nic_node;        /* likewise of near_nic */
	char path_device[32];    /* the device of near_path, such as nvme0n1; "": not known */
};

/**
 * thmq_env_plan() - where the cores of an environment would go on this machine
 * @opts: as for thmq_env_open(): flags, first_cpu, cpus, near_path and near_nic are looked at; NULL means defaults
 * @places: out; of the first @count cores, whose first element has its size set; may be NULL
 * @count: how many; cpu_count of them are all processors, in the order in which they are taken
 * @ret_machine: in: its size field; out: the machine; may be NULL
 *
 * Processors are taken in this order: those before others to which a thread of this process is bound alone, such as a core of another
 * environment; one of each physical core before its siblings; fast ones before slow ones; those nearest to near_path, then to
 * near_nic; those with memory of their own node; by their place in the machine, so that one node is filled before the next. Nothing is
 * opened or pinned: flags never has THMQ_PLACE_PINNED. doc/cores.md tells more.
 *
 * Return: 0; -EINVAL cpus, flags or a size; -ENODEV no such near_nic; -ENOTSUP the machine cannot be looked at; -ENOMEM.
 * Threads: any that may block.
 */
THMQ_API int thmq_env_plan(const struct thmq_env_opts *opts, struct thmq_place *places,
			   uint32_t count, struct thmq_machine *ret_machine);

/**
 * thmq_env_place() - where a core of an environment is
 * @core_index: 0 … core_count - 1
 * @ret_place: in: its size field; out: the place; of a core that a thread of the host drives nothing is known
 * A core that could not be pinned runs all the same, and error tells why.
 * Return: 0; -EINVAL no such core, or no size.
 * Threads: any.
 */
THMQ_API int thmq_env_place(struct thmq_env *env, uint32_t core_index, struct thmq_place *ret_place);

/* ---------------------------------------------------------------------- TLS */

/*
 * Who the two ends of a remote connection are, and that nobody between them reads or changes anything: TLS 1.3, by certificates
 * on both sides or by keys that both have already. Files are in PEM, and are read by the call that gets the options; the strings
 * are needed during that call only. doc/transports.md tells more.
 */
struct thmq_tls_opts {
	uint32_t size;
	uint32_t flags;       /* THMQ_TLS_* */
	const char *ca_file;  /* who signs the other side's certificate; NULL: a session believes whom the system does, unless it has a
				 pre-shared key; a broker wants no certificates */
	const char *cert_file;    /* our certificate, those in between behind it; NULL: none */
	const char *key_file;     /* its private key; NULL: it is in cert_file too */
	const char *key_password; /* of an encrypted one */
	const char *crl_file;     /* what ca_file's signer has revoked; it must be up to date */
	/* What the other side's certificate must be for: names, or one address, separated by commas, one of which is enough.
	 * NULL: a session's: the host of its URL; a broker's: any client that ca_file's signer has signed. */
	const char *peer_name;
	const char *psk_identity;  /* a pre-shared key: its name, of 1 to 127 characters … */
	const char *psk_key;       /* … and 32 to 128 hexadecimal digits, by chance */
	const char *psk_file;      /* a broker's: lines "identity:key" */
	const char *cipher_suites; /* of TLS 1.3, by preference, separated by colons; NULL: all, AES-128-GCM first */
};

#define THMQ_TLS_ANY_CLIENT 1u   /* a broker with cert_file asks nobody who he is: encrypted, no more */
#define THMQ_TLS_ANY_NAME 2u     /* a session takes any name in a certificate that ca_file's signer has signed */
#define THMQ_TLS_KERNEL 4u       /* the kernel encrypts where it can (Linux, module tls); else OpenSSL does, as without this flag */
#define THMQ_TLS_BESIDE_PLAIN 8u /* tcp:// stays plain: TLS is for tls:// only */

#define THMQ_TLS_OPTS(...)                                                                         \
	(&(struct thmq_tls_opts){.size = sizeof(struct thmq_tls_opts), __VA_ARGS__})

/** thmq_tls_opts_init() - set @opts to the defaults */
THMQ_API void thmq_tls_opts_init(struct thmq_tls_opts *opts, uint32_t size);
#define thmq_tls_opts_init(opts) thmq_tls_opts_init((opts), sizeof(struct thmq_tls_opts))

/* ------------------------------------------------------------------- limits */

/*
 * How much of something may go through a topic, or be had by a client: a second, in bursts of a tenth of it; 0: no limit. Who has had it
 * waits: his messages stay where they are, so that his claims are -EAGAIN once his window is full, and his consumers get more later. Nothing
 * is dropped; THMQ_EVENT_LIMITED and thmq_producer_retry_ns() tell how long it takes. doc/access.md
 */
struct thmq_limits {
	uint32_t size;        /* sizeof(struct thmq_limits) */
	uint32_t outstanding; /* of a client: messages that a consumer of his holds, on each of its connections; a topic has no such limit */
	uint64_t produce_bytes;
	uint64_t produce_messages;
	uint64_t consume_bytes;
	uint64_t consume_messages;
};

/* ------------------------------------------------------------------- broker */

struct thmq_access; /* <thundermq/access.h> */

/* What happens when a shard has reached its limit, or its file system is full. */
enum thmq_full_policy {
	THMQ_FULL_REFUSE = 0,     /* messages are refused with -ENOSPC until something may go or has been deleted */
	THMQ_FULL_DROP_OLDEST = 1 /* the oldest messages go, read or not, whatever their topics say */
};

/* How one durable write is done. */
enum thmq_flush_method {
	THMQ_FLUSH_PROBE = 0, /* the one that is faster on this device: measured once for each device and environment */
	THMQ_FLUSH_DSYNC = 1, /* the write says so: RWF_DSYNC, which goes through the device's cache (FUA) where it can */
	THMQ_FLUSH_FDATASYNC = 2 /* a plain write, then fdatasync */
};

/* Is the completion of small writes and reads looked for at the device (io_uring's IOPOLL), or told by an interrupt? */
enum thmq_polled_io {
	THMQ_POLLED_PROBE = 0, /* looked for where the device has polled queues that pay, but never under THMQ_POLICY_EVENT */
	THMQ_POLLED_OFF = 1,
	THMQ_POLLED_ON = 2 /* -EOPNOTSUPP at open where it cannot be; a core does not sleep while one is in flight */
};

struct thmq_broker_opts {
	uint32_t size;
	uint32_t flags; /* THMQ_BROKER_* */
	const char
		*data_dir;  /* directory of the logs, made if absent; NULL: volatile topics only */
	const char *name;   /* name for inproc://name; NULL: reached by a bare inproc:// */
	const char *listen; /* URLs to listen on, comma separated: shm:///path, tcp://host:port, tls://…, rdma://…, port 0: any; NULL: inproc only */
	uint32_t shard_count; /* at creation of the directory; 0 means one per core, with a cluster one */
	uint32_t write_depth; /* batches in flight per shard; 0 means 8 */
	uint64_t
		segment_bytes; /* at creation: largest segment, a power of two from 1 MiB to 1 GiB; 0 means 1 GiB */
	uint64_t cache_bytes; /* tail cache per shard; 0 means 16 MiB, which stay in a processor's cache */
	uint32_t
		batch_bytes; /* largest group commit, a multiple of 4096 up to 4 MiB, and to the shards' smallest segment; 0 means 1 MiB */
	uint32_t reserved;
	uint64_t group_ns; /* how long a message that somebody waits for may wait for company before it is
			      written, up to 1 s; 0: not at all, it is written as soon as the device is free */
	uint64_t
		flush_interval_ns; /* messages of weaker durability are durable at the latest after this time; 0 means 500 ms */
	uint64_t flush_bytes; /* or after so many bytes were written without a flush; 0 means 64 MiB */
	uint32_t
		group_bytes; /* so many bytes are written at once, also with writes in flight, up to batch_bytes; 0:
				64 KiB with writes in flight, and else no limit but batch_bytes */
	uint32_t reserved2;
	uint64_t limit_bytes; /* of each shard's files, four segments at least; 0: as much as the file system has */
	uint32_t full_policy; /* enum thmq_full_policy: at limit_bytes, or when the file system is full */
	uint32_t reserved3;
	uint32_t flush_method; /* enum thmq_flush_method */
	uint32_t polled_io;    /* enum thmq_polled_io */
	uint64_t peer_timeout_ns; /* a remote client that says nothing, or takes nothing, for so long is gone; at least 200 ms;
				     0 means 30 s */
	uint32_t connection_max; /* remote connections at a time, one for each shard that a session uses and one more; 0 means
				    1024; more are closed at once */
	uint32_t reserved4;
	const struct thmq_tls_opts *tls; /* for all of listen; NULL: tcp:// is plain, and there is no tls:// */
	/*
	 * Copies: this is one of several brokers that keep the same data, each in a data_dir of its own. One of them leads and serves
	 * clients, what a majority has on its medium is committed, and where one fails another takes over. All of them, as
	 * "1=inproc://a,2=inproc://b,3=inproc://c": a number, which is never given to another, and where it is reached. At creation, and the
	 * same everywhere; nobody leads before all of them have been there at once, that first time. Later who belongs to them is in the data. NULL: one copy. doc/replication.md
	 */
	const char *cluster;
	const char *cluster_name; /* the same on all of them, and no other cluster's; NULL: it is known by the text of cluster */
	uint64_t node_id;         /* which of them this is. One that lost its directory comes back under another number */
	uint32_t heartbeat_ms;    /* 0 means 30 */
	uint32_t election_ms;     /* a leader that is not heard of for so long, up to twice, is replaced; 0 means 300 */
	/*
	 * Brokers on several machines, or in several processes: cluster is "1=tcp://host:port+other,2=...": clients come by port (see listen), the other
	 * brokers by `other`, without it by port + 10000. cluster_key proves that a broker belongs to them, and encrypts what they say to each other: 32 to
	 * 128 hexadecimal digits by chance, the same on all. NULL, and no cluster_tls: whoever reaches that port can change what is stored.
	 */
	const char *cluster_key;
	const char *cluster_listen; /* tcp://address:other, where it listens for the others; NULL: as cluster says */
	uint64_t delayed_max; /* messages of a shard whose time has not come, 16 to 32 bytes of memory each: more are refused with
				 -ENOBUFS; 0 means 16,777,216 */
	/* What is counted and measured is in a file that other processes read, also after a crash: <thundermq/stats.h>, thmq stat. Where it
	 * cannot be made the broker goes without. */
	const char *stats_path; /* NULL: data_dir/stats; without a data_dir: none */
	/*
	 * Who may do what: a file of rules, a function, or both, of which each has to allow it; <thundermq/access.h>. NULL both: whoever reaches the
	 * broker may do everything. The functions are called on any core, by several at a time: they neither block nor call the library.
	 */
	const char *access_file; /* needed during the call only */
	int (*access)(void *ctx, const struct thmq_access *what); /* 0: allowed; negative: denied, which the client gets as -EACCES */
	void (*audit)(void *ctx, const struct thmq_access *what); /* it was denied, or has to wait because of a limit; NULL: nobody asks */
	void *access_ctx;
	uint32_t trace_every; /* each n-th group commit is shown step by step in the file of statistics: thmq explain; 0: none */
	uint32_t all_timeout_ms; /* copies: what waits for THMQ_DURABILITY_ALL, and has a majority, waits for the others so long, and settles
				    with what it has then; 0 means 10,000 */
	const struct thmq_limits *client_limits; /* of each identity that no rule and no function gives others; NULL: none. Needed during the call only */
	/*
	 * In place of cluster_key: each broker proves by a certificate that it belongs to them. ca_file signs theirs and nobody else's; cert_file calls and is called, so
	 * that its purpose, if it says one, is that of a client and of a server; whom this one calls must have one for the host in cluster, unless peer_name, or
	 * THMQ_TLS_ANY_NAME, says otherwise. Needed during the call only; the files are read again for each broker that becomes known. doc/replication.md
	 */
	const struct thmq_tls_opts *cluster_tls;
};

#define THMQ_BROKER_NO_CREATE 1u /* -ENOENT where data_dir holds no data yet */
#define THMQ_BROKER_NO_BACKGROUND_FLUSH                                                            \
	2u /* no flush_interval_ns and flush_bytes: messages of weaker durability become durable with the next durable one */
#define THMQ_BROKER_NO_STATS 8u /* no file of statistics */
#define THMQ_BROKER_JOIN 4u /* with an empty directory: it waits to be made a member of the cluster, whose cluster_name it gives */

#define THMQ_BROKER_OPTS(...)                                                                      \
	(&(struct thmq_broker_opts){.size = sizeof(struct thmq_broker_opts), __VA_ARGS__})

/** thmq_broker_opts_init() - set @opts to the defaults */
THMQ_API void thmq_broker_opts_init(struct thmq_broker_opts *opts, uint32_t size);
#define thmq_broker_opts_init(opts) thmq_broker_opts_init((opts), sizeof(struct thmq_broker_opts))

/**
 * thmq_broker_open() - open a broker: recover its directory and start to serve
 * @env: environment
 * @opts: options; NULL means no directory: volatile topics only
 * @ret_broker: out
 *
 * A directory that does not exist, or is empty, is created with its shards. One broker at a time may
 * have a directory open, in any process. One of several copies is open before a majority is there: clients wait for that.
 *
 * Return: 0; -EBUSY another process has the directory (thmq_errmsg() names its pid); -ENOENT; -ENOTDIR;
 * -EACCES, -EROFS; -ENOSPC; -THMQ_EVERSION a newer format; -THMQ_ECORRUPT damage below what is known
 * durable, a shard that is missing or belongs to another directory; -EEXIST the name is taken;
 * -ENOENT, -EINVAL, … of access_file, with the line that is wrong;
 * -EOPNOTSUPP polled_io is THMQ_POLLED_ON where it cannot be, or there is a cluster and the library was built without libraft; -EPROTONOSUPPORT listen has a scheme that this library does not
 * speak; -EADDRINUSE, -EADDRNOTAVAIL, -EHOSTUNREACH where it cannot listen there; -EINVAL; -EDEADLK a core of a caller-driven environment has no owner.
 * Threads: any that may block. Owner: the app, until thmq_broker_close() or thmq_env_close().
 */
THMQ_API int thmq_broker_open(struct thmq_env *env, const struct thmq_broker_opts *opts,
			      struct thmq_broker **ret_broker);

/**
 * thmq_broker_close() - flush and close a broker
 * @timeout_ns: how long writes in flight and group offsets may take; each shard's device gets a second at least
 * Sessions that are still connected get THMQ_EVENT_CLOSED and -ESHUTDOWN from then on; their threads may be inside any
 * call meanwhile. Messages that they hold stay valid; the memory of these goes back to the pool when the session closes.
 * Return: 0; -ETIMEDOUT closed, but not all settled; -EINVAL not an open broker, or another thread is closing it; -EDEADLK a core of
 * its shards is not driven, found out within @timeout_ns and a second: nothing was done, and it is still open.
 * What a device that does not answer still has then keeps its memory, and the directory stays locked (-EBUSY), until it
 * has answered, or the environment has closed, which waits for it.
 * Threads: any that may block. Where several close a broker at once, one of them does, and the others get -EINVAL at once.
 */
THMQ_API int thmq_broker_close(struct thmq_broker *broker, uint64_t timeout_ns);

struct thmq_broker_stats {
	uint32_t size; /* in */
	uint32_t shard_count;
	uint32_t topic_count;
	uint32_t session_count;
	uint64_t messages_in;
	uint64_t bytes_in;
	uint64_t messages_out; /* handed to consumers */
	uint64_t bytes_out;
	uint64_t batches;            /* group commits */
	uint64_t stored_bytes;       /* bytes of batches, padding included */
	uint64_t recovered_messages; /* seen at open */
	uint64_t recovery_ns;
	uint64_t torn_bytes;  /* tail of writes in flight cut at open */
	uint32_t disk_engine; /* 0 none, 1 io_uring, 2 threads, 3 inline, 4 simulated */
	uint32_t
		direct_io; /* 1: O_DIRECT; 0: the file system refused it, writes go through the page cache and are flushed */
	uint32_t flush_method; /* how a write is made durable: THMQ_FLUSH_DSYNC or _FDATASYNC; 0: no directory, or simulated */
	uint32_t polled_io;    /* THMQ_POLLED_ON or _OFF; 0: likewise */
	uint32_t connection_count; /* remote ones at the moment, with those that have not said what they want yet */
	uint32_t tls_count;        /* of these, the encrypted ones … */
	uint32_t kernel_tls_count; /* … and of them those that the kernel encrypts */
	int32_t refused_error;     /* why the last one was refused, as its client was told; 0: none was */
	uint64_t refused_count;    /* remote connections that were refused: by TLS, or for what they asked for */
};

/** thmq_broker_stats() - copy the broker's counters, also while another thread closes it. Return: 0; -EINVAL */
THMQ_API int thmq_broker_stats(struct thmq_broker *broker, struct thmq_broker_stats *ret_stats);

/**
 * thmq_broker_listen_url() - where a broker listens, with the port that it got
 * @index: which of the URLs, from 0, inproc ones not counted
 * @ret_url: out; at least 64 bytes are enough for any
 * @size: of @ret_url
 * Return: its length; -ENOENT there are no more; -ENOSPC @size is too small; -EINVAL not an open broker.
 * Threads: any.
 */
THMQ_API int thmq_broker_listen_url(struct thmq_broker *broker, uint32_t index, char *ret_url, uint32_t size);

/**
 * thmq_broker_leader() - which of several copies leads
 * @ret_id: out, or NULL; its node_id; 0: none is known now, or there is one copy
 * Return: 1 this broker leads and serves, as one with one copy always does; 0 it does not; -THMQ_EFENCED it was removed from its cluster, as others have told it:
 * it serves nothing any more, and can be closed; -EINVAL not an open broker.
 * Threads: any.
 */
THMQ_API int thmq_broker_leader(struct thmq_broker *broker, uint64_t *ret_id);

/**
 * thmq_broker_copy() - copy the data directory of an open broker while it serves
 * @dest: a directory that is not there yet, or is empty
 * @timeout_ns: how long it may take
 *
 * The copy is a data directory of its own, as if it had been closed when the call began: of every shard all that was durable
 * then, byte for byte, and every topic and group that it speaks of. Nobody waits for it; every batch is checked on its
 * way. The calling thread does the work, and goes on driving its core if it has one. Nothing is dropped meanwhile, so that a
 * shard at its limit_bytes may have no room for messages until then. If it fails, what @dest holds does not open, and may be
 * removed.
 *
 * Return: 0; -ETIMEDOUT; -ENOTEMPTY; -ENOSPC; -THMQ_ECORRUPT stored bytes are damaged; -EOPNOTSUPP a broker without a
 * directory; -ESHUTDOWN the broker is being closed by another thread; -EDEADLK nobody drives a core; -EINVAL; an error of
 * the file system.
 * Threads: any that may block.
 */
THMQ_API int thmq_broker_copy(struct thmq_broker *broker, const char *dest, uint64_t timeout_ns);

/**
 * thmq_broker_tls_renew() - other certificates and keys for a broker that listens by TLS
 * @opts: as thmq_broker_opts.tls, whose files are read anew; THMQ_TLS_BESIDE_PLAIN has no say here
 * They are for connections that come from now on; those that are there stay as they are.
 * Return: 0; -ENOENT, -EACCES …: of a file; -EINVAL options or files that say nothing sensible, a broker that does not listen by
 * TLS, or not an open broker; -ENOMEM. A failed call leaves what there was.
 * Threads: any that may block.
 */
THMQ_API int thmq_broker_tls_renew(struct thmq_broker *broker, const struct thmq_tls_opts *opts);

/* ------------------------------------------------------------------ session */

struct thmq_session_opts {
	uint32_t size;
	uint32_t flags; /* none yet */
	uint64_t
		window_bytes; /* unsettled payload per shard; 0 means 4 MiB; rounded up to a power of two */
	uint32_t
		window_count; /* unsettled messages per shard, one less than this may be out; 16 to 1048576; 0 means
				 32768; rounded up to a power of two */
	uint32_t event_count; /* events kept for thmq_events(); 0 means 4096 */
	uint64_t timeout_ns;  /* of blocking calls; 0 means 30 s */
	uint64_t peer_timeout_ns; /* a remote broker that says nothing, or takes nothing, for so long is gone; at least 200 ms;
				     0 means 30 s */
	const struct thmq_tls_opts *tls; /* for tls:// and tcp://; NULL: tls:// with a broker that the system believes, tcp:// plain */
	/*
	 * For how long a connection that is lost is tried to be made again before the session is dead; 0: not at all, or for 30 s
	 * where brokers keep the same data; up to 30 minutes. Meanwhile claims and commits are -EAGAIN and fetches give nothing; then all goes on where it was: what was
	 * committed and is not settled is sent again and stored once, also by a broker that was opened again meanwhile; consumers go on behind
	 * the last message that they gave to the app, members of a group keep their partitions if they are back within their
	 * session_timeout_ns. THMQ_EVENT_DISCONNECTED and THMQ_EVENT_RECONNECTED tell. The
	 * name of a host is looked up again, where @env may have threads: by one that ends with the answer. doc/resuming.md
	 */
	uint64_t reconnect_ns;
};

#define THMQ_SESSION_OPTS(...)                                                                     \
	(&(struct thmq_session_opts){.size = sizeof(struct thmq_session_opts), __VA_ARGS__})

/** thmq_session_opts_init() - set @opts to the defaults */
THMQ_API void thmq_session_opts_init(struct thmq_session_opts *opts, uint32_t size);
#define thmq_session_opts_init(opts) thmq_session_opts_init((opts), sizeof(struct thmq_session_opts))

/**
 * thmq_connect() - connect to a broker
 * @env: environment
 * @url: inproc://name, or inproc:// for the environment's only broker; shm:///path for one in any process of the machine;
 * tcp://host:port or tcp://[address]:port for one anywhere; tls://… for the same over TLS; rdma://host:port[?from=address] likewise, where
 * from is the address of this machine's port. Several with commas between where brokers keep the same data: the one that leads is found. It is looked up once: the session stays with that broker, whatever else is opened later, and ends with it, whoever
 * takes its name then. A remote one is spoken to by the calling thread's own core, if it has one, or else by any core of
 * @env, which must be driven: at least every peer_timeout_ns, also while nothing is sent.
 * @opts: NULL means defaults
 * @ret_session: out; owned by the calling thread
 *
 * Return: 0; -EINVAL malformed URL; -EPROTONOSUPPORT unknown scheme; -ECONNREFUSED nobody listens there;
 * -EACCES no permission for the socket, or the broker refuses the certificate or pre-shared key; -ENAMETOOLONG; -EAGAIN too many wait there to be let in;
 * -EHOSTUNREACH no such host; -EPROTO what listens there is no broker; -THMQ_EVERSION it is one of another version;
 * -ENOKEY the broker wants TLS, or a certificate, or shows none;
 * -EKEYREJECTED, -EKEYEXPIRED, -EKEYREVOKED its certificate is not to be believed (thmq_errmsg() tells more);
 * -EDEADLK nobody drives the core; -ETIMEDOUT; -ENOMEM; -ENODEV no RDMA device; another error of the network.
 */
THMQ_API int thmq_connect(struct thmq_env *env, const char *url,
			  const struct thmq_session_opts *opts, struct thmq_session **ret_session);

/**
 * thmq_session_close() - close a session with all producers and consumers on it
 * @timeout_ns: how long unsettled messages and acks may take
 * Return: 0; -ETIMEDOUT closed, but not all settled; -EINVAL; -EDEADLK nothing was done, also in a core's callback; or of the close of a
 * producer or consumer: closed.
 */
THMQ_API int thmq_session_close(struct thmq_session *session, uint64_t timeout_ns);

/** thmq_session_fd() - a descriptor that becomes readable after thmq_session_arm() when something arrives
 * for this session. Owned by the session. Needed only where another thread drives the core.
 * Return: descriptor; -EINVAL. */
THMQ_API int thmq_session_fd(struct thmq_session *session);

/**
 * thmq_session_arm() - announce that the thread will sleep on thmq_session_fd()
 * Return: 0 armed; 1 something is there already: fetch or take events first; -EINVAL; -ESHUTDOWN.
 */
THMQ_API int thmq_session_arm(struct thmq_session *session);

/**
 * thmq_session_wait() - block until something arrives for this session
 * @timeout_ns: at most so long
 * Drives the calling thread's own core if it has one, sleeps otherwise.
 * Return: 1 something is there; 0 time-out; -EDEADLK; -EINVAL; -ESHUTDOWN.
 */
THMQ_API int thmq_session_wait(struct thmq_session *session, uint64_t timeout_ns);

/* ------------------------------------------------------------------- topics */

struct thmq_topic_opts {
	uint32_t size;
	uint32_t flags;           /* THMQ_TOPIC_* */
	uint32_t partition_count; /* 0 means 1 */
	/*
	 * enum thmq_durability from which consumers see a message; default DURABLE (MEMORY if volatile). All messages of the topic are
	 * written for that at least: with the default durably, whatever their producers wait for. There WRITTEN settles when the
	 * device has taken this durable write, hardly before DURABLE, and consumers see the message when it is durable.
	 */
	uint32_t visible_at;
	uint64_t volatile_bytes; /* with THMQ_TOPIC_VOLATILE: memory of each partition, 1 MiB to 16 GiB; 0 means 16 MiB */
	/*
	 * What need not be kept: messages older than retention_ns; of each partition all but the newest retention_bytes; with
	 * THMQ_TOPIC_RETAIN_CONSUMED what all groups of the topic have acknowledged, if it has one. Each by itself is enough. It
	 * goes some time later, with the segment that it lies in, the oldest first. All 0: everything is kept for ever.
	 */
	uint64_t retention_ns;
	uint64_t retention_bytes;
	uint64_t ttl_ns; /* of messages that have none of their own: see struct thmq_message_opts; what has outlived it need not be kept. 0: none */
	uint64_t tombstone_ns; /* with THMQ_TOPIC_COMPACT: how long it is kept at least that a key was deleted, so that slow readers hear of it; 0 means a day */
	const struct thmq_limits *limits; /* of all that goes through the topic; NULL: none. Copied */
	/*
	 * Messages have a priority from 0 to priorities - 1, and consumers get higher ones first; up to THMQ_PRIORITIES_MAX; 0 and 1: they have
	 * none. Each priority has partition_count partitions of its own: what has priority k of partition p is in partition p + k *
	 * partition_count, with offsets, groups, retention and all of its own. doc/priorities.md
	 */
	uint32_t priorities;
	uint32_t reserved;
};

#define THMQ_TOPIC_VOLATILE 1u  /* a ring in memory, no log; gone with the broker */
#define THMQ_TOPIC_IF_ABSENT 2u /* succeed where the topic exists already, whatever its options */
#define THMQ_TOPIC_RETAIN_CONSUMED 4u /* what all its groups have acknowledged may go */
/*
 * Of each key the newest message is kept, and older ones may go; a message with a key and without a payload deletes the key. Messages without a key stay, as
 * far as the other limits say so. Not with RETAIN_CONSUMED, nor on a volatile topic. doc/compaction.md
 */
#define THMQ_TOPIC_COMPACT 8u
#define THMQ_TOPIC_TEMPORARY 0x100u /* deleted once no group of it has had a member (one that does not share) for half a minute */

#define THMQ_TOPIC_OPTS(...)                                                                       \
	(&(struct thmq_topic_opts){.size = sizeof(struct thmq_topic_opts), __VA_ARGS__})

/** thmq_topic_opts_init() - set @opts to the defaults */
THMQ_API void thmq_topic_opts_init(struct thmq_topic_opts *opts, uint32_t size);
#define thmq_topic_opts_init(opts) thmq_topic_opts_init((opts), sizeof(struct thmq_topic_opts))

/**
 * thmq_topic_create() - create a topic
 * @name: 1 … THMQ_TOPIC_NAME_MAX bytes of A-Z a-z 0-9 . _ -, not "." or ".."
 * @opts: NULL means defaults
 * Return: 0 when durable; -EEXIST; -EACCES the broker's rules do not allow it; -EINVAL malformed name or options; -ENAMETOOLONG; -ENOSPC;
 * -ENOTSUP a logged topic at a broker without a directory, a volatile one at brokers that keep the same data; -ETIMEDOUT, -ECONNRESET outcome unknown; -EDEADLK.
 * Where another change of that topic is under way it waits for that, within the session's time-out.
 */
THMQ_API int thmq_topic_create(struct thmq_session *session, const char *name,
			       const struct thmq_topic_opts *opts);

/**
 * thmq_topic_delete() - delete a topic, its messages and its groups' offsets
 * Its open producers and consumers, of this session too, get -THMQ_ENOTOPIC as soon as they hear of it: what is sent until
 * then is refused by an event.
 * Return: 0 when durable; -THMQ_ENOTOPIC; -EACCES the broker's rules do not allow it; -EINVAL; -ETIMEDOUT, -ECONNRESET outcome unknown; -EDEADLK.
 */
THMQ_API int thmq_topic_delete(struct thmq_session *session, const char *name);

/* What of a topic thmq_topic_alter() sets. */
#define THMQ_ALTER_RETENTION_TIME 1u  /* retention_ns */
#define THMQ_ALTER_RETENTION_BYTES 2u /* retention_bytes */
#define THMQ_ALTER_TTL 4u             /* ttl_ns */
#define THMQ_ALTER_TOMBSTONE 8u       /* tombstone_ns, of a compacted one */
#define THMQ_ALTER_LIMITS 16u         /* limits, all of them; NULL: none any more */
#define THMQ_ALTER_PARTITIONS 32u     /* partition_count: at least as many as there are */

/**
 * thmq_topic_alter() - give a topic other limits, or more partitions
 * @opts: as of thmq_topic_create(), of which only what @what names is looked at; 0 there is what it is at creation: none, or the default
 * @what: THMQ_ALTER_*, at least one. All else of a topic is as it was created.
 * What may go by it, and how much may go through, is so at once, for producers and consumers that are open too; ttl_ns counts for consumers that are opened from then on.
 * Partitions that are added count from the ones there are. Producers that are open send to them as soon as they hear of it, and so of most keys the messages go to another
 * partition from then on; groups share all out anew; consumers without a group, and members of shared ones, read them from their beginning, also those that began at the end.
 * Return: 0 when durable, and so everywhere; -THMQ_ENOTOPIC; -EACCES the broker's rules do not allow it; -EBUSY it is just being changed by somebody else; -EINVAL also what
 * such a topic cannot have, or fewer partitions; -EOPNOTSUPP more of a topic with priorities, which are told by the partition's number; -ENOSPC; -ENOMEM stored, and not so in some shard before the broker is opened again; -ETIMEDOUT, -ECONNRESET outcome unknown; -EDEADLK.
 * Threads: the session's; blocks until the answer comes.   Source: doc/retention.md, doc/access.md, doc/messages.md
 */
THMQ_API int thmq_topic_alter(struct thmq_session *session, const char *name, const struct thmq_topic_opts *opts, uint32_t what);

struct thmq_topic_info {
	uint32_t size;  /* in: of each element */
	uint32_t flags; /* THMQ_TOPIC_VOLATILE, _RETAIN_CONSUMED, _COMPACT */
	uint32_t topic_id;
	uint32_t partition_count;
	uint32_t visible_at;
	uint32_t group_count;
	char name[256];
	uint64_t retention_ns;
	uint64_t retention_bytes;
	uint64_t ttl_ns;
	uint64_t tombstone_ns; /* 0: it is not compacted */
	/* as in struct thmq_limits */
	uint64_t produce_bytes, produce_messages;
	uint64_t consume_bytes, consume_messages;
	uint32_t priorities; /* 0: its messages have none; else partition_count is that of all of them together */
	uint32_t reserved;
};

/**
 * thmq_topic_list() - the topics, by name
 * @ret_infos: out, @max elements, each with its size field set by the caller in the first one
 * Return: the number of topics there are (perhaps more than @max: the first @max are filled); errors.
 */
THMQ_API int thmq_topic_list(struct thmq_session *session, struct thmq_topic_info *ret_infos,
			     uint32_t max);

/** thmq_topic_describe() - one topic. Return: 0; -THMQ_ENOTOPIC; -THMQ_ENOQUORUM no majority is there, and it is not known here; -EINVAL; -ETIMEDOUT; -EDEADLK. */
THMQ_API int thmq_topic_describe(struct thmq_session *session, const char *name,
				 struct thmq_topic_info *ret_info);

struct thmq_partition_info {
	uint32_t size; /* in */
	uint32_t partition;
	uint32_t shard;
	uint32_t priority; /* of its messages; 0 also where they have none */
	uint64_t begin_offset; /* first message that is held */
	uint64_t end_offset;   /* one past the last visible message */
	uint64_t group_offset; /* of the group asked for; UINT64_MAX if it has none */
	uint64_t
		lag; /* visible messages that the group has not acked; offsets that were never used count too; in a shared group
			those acked out of order do not */
	uint64_t delayed; /* messages for it whose time has not come; fewer while a broker that was just opened looks for them */
	/* When the next of all that wait in its shard is due, ns since 1970; UINT64_MAX: none waits. What is past is on its way, or held up, as
	 * where there is no room; 0: it is not known yet, or already stored, and not seen */
	uint64_t due_ns;
};

/**
 * thmq_partition_describe() - bounds of a partition, and where a group stands in it
 * @group: name of a group, or NULL
 * Return: 0; -THMQ_ENOTOPIC; -THMQ_ENOPARTITION; -THMQ_ENOQUORUM no majority is there, and it is not known here; -EINVAL; -ETIMEDOUT; -EDEADLK.
 */
THMQ_API int thmq_partition_describe(struct thmq_session *session, const char *topic,
				     uint32_t partition, const char *group,
				     struct thmq_partition_info *ret_info);

/* The newest message with a key. */
struct thmq_key_info {
	uint32_t size;      /* in */
	uint32_t partition; /* where it is */
	uint64_t offset;
	int64_t time_ns;
};

/**
 * thmq_key_find() - where the newest message with a key is
 * @partition: in this one; UINT32_MAX: in the one that the key's hash says, where its messages go by themselves, of priority 0 where there are some
 * @key: 1 to THMQ_KEY_MAX bytes
 * @before_offset: only below it, such as the offset of one that was found: so all that a key had is found, newest first; UINT64_MAX: all
 * It is found by the index: at most one device read for each segment whose filter and times do not rule the key out, and one for the
 * message. A consumer of that partition (THMQ_CONSUMER_PARTITION) that seeks the offset gets it: doc/messages.md.
 * Return: 0; -ENOENT there is none; -THMQ_ENOTOPIC; -THMQ_ENOPARTITION; -ENOTSUP a volatile topic; -EINVAL; -ETIMEDOUT; -EDEADLK; -EIO,
 * -THMQ_ECORRUPT it cannot be read.
 */
THMQ_API int thmq_key_find(struct thmq_session *session, const char *topic, uint32_t partition, const void *key,
			   uint32_t key_len, uint64_t before_offset, struct thmq_key_info *ret_info);

/**
 * thmq_delayed_cancel() - a message whose time has not come is not to come
 * @partition: that it was sent to, and @number: both as THMQ_EVENT_SETTLED told in partition and offset (of a producer with THMQ_PRODUCER_REPORT)
 * Return: 0 it never comes: that is durable; -ENOENT no such message waits: it came, or is on its way, or was cancelled; -THMQ_ENOTOPIC;
 * -THMQ_ENOPARTITION; -ENOTSUP a volatile topic; -EINVAL; -ETIMEDOUT, -ECONNRESET whether it will come is not known; -EDEADLK; -ENOSPC; -EIO,
 * -THMQ_ECORRUPT it cannot be read.
 * Threads: the session's; blocks until the answer comes.
 */
THMQ_API int thmq_delayed_cancel(struct thmq_session *session, const char *topic, uint32_t partition, uint64_t number);

/* ------------------------------------------------------------------ cluster */

enum thmq_node_role {
	THMQ_NODE_SPARE = 0,   /* known, and gets nothing yet */
	THMQ_NODE_STANDBY = 1, /* gets all, and counts for nothing yet */
	THMQ_NODE_VOTER = 2
};

/* A broker that keeps the same data as others, as the one that leads knows it. */
struct thmq_node {
	uint32_t size;      /* in */
	uint32_t role;      /* enum thmq_node_role, of its copy of the metadata; the shards' follow */
	uint64_t id;        /* its node_id */
	uint32_t leads;     /* 1: it is this one */
	uint32_t connected; /* 1: the one that leads reaches it */
	int32_t error;      /* else why not, or 0. Of one that is connected: what it suffers from, and it stores nothing then: -ENOSPC, -EDQUOT its
			       device has no room; another one: a shard of it has failed with that. 0: nothing */
	uint32_t drained;   /* 1: it is not to lead: thmq_cluster_drain() */
	char address[256]; /* as in struct thmq_broker_opts */
	uint64_t behind; /* batches that the one that leads has, and this one is not known to have on its medium: of the shard of which it lacks
			    most. Up to 64 are under way where much is sent. UINT64_MAX: not known, also while nobody leads */
	uint64_t term;   /* rises with each election; of whom was asked, the same in all */
	char failed[24]; /* by thmq_broker_nodes(), of that broker itself: which shard has failed with `error`, as its directory is named; else "" */
};

/**
 * thmq_cluster_nodes() - the brokers that keep the same data
 * @ret_nodes: out, @max elements, each with its size field set by the caller in the first one
 * Return: how many there are (perhaps more than @max); -ENOTSUP this broker has the only copy; -EINVAL; -ETIMEDOUT; -EDEADLK.
 * Threads: the session's.
 */
THMQ_API int thmq_cluster_nodes(struct thmq_session *session, struct thmq_node *ret_nodes,
				uint32_t max);

/**
 * thmq_broker_nodes() - the same, as this broker sees them by itself
 * @ret_nodes: out, @max elements, each with its size field set by the caller in the first one
 * Nobody else is asked, so that it tells also where nobody leads, or others do not let this one in, what its own connections are: `connected`: it reaches that one
 * itself; `error`: why not. `behind` is known where it leads. It is as it was 50 ms ago.
 * Return: how many there are (perhaps more than @max; 0: the broker is just being opened); -ENOTSUP it has the only copy; -EINVAL.
 * Threads: any; does not wait for the broker.   Source: doc/copies.md.
 */
THMQ_API int thmq_broker_nodes(struct thmq_broker *broker, struct thmq_node *ret_nodes, uint32_t max);

/**
 * thmq_cluster_add() - make a broker one of them
 * @id: its node_id, which no other broker has or had  @address: where it is reached, as in struct thmq_broker_opts
 * @timeout_ns: 0: the session's
 * It is open, with an empty directory and THMQ_BROKER_JOIN. It gets all data first, and its vote then. What a call that timed out has begun stays; another
 * one goes on.
 * Return: 0 it has a vote in all shards; -EEXIST there is such a number, at another address; -EINVAL; -ENOTSUP; -ETIMEDOUT; -EDEADLK.
 * Threads: the session's.
 */
THMQ_API int thmq_cluster_add(struct thmq_session *session, uint64_t id, const char *address,
			      uint64_t timeout_ns);

/**
 * thmq_cluster_remove() - a broker is none of them any more, whether it lives or not
 * It may be closed then; its directory and its number are never used again.
 * Return: 0 also if it is none; -EBUSY it leads: thmq_cluster_lead() first; -EINVAL nobody would be left; -ENOTSUP; -ETIMEDOUT; -EDEADLK.
 * Threads: the session's.
 */
THMQ_API int thmq_cluster_remove(struct thmq_session *session, uint64_t id, uint64_t timeout_ns);

/**
 * thmq_cluster_lead() - another broker is to lead: before a planned stop of the one that does
 * @id: which; 0: the one that has most
 * Return: 0 it does; -EINVAL no such node has a vote; -EBUSY it is drained, or @id is 0 and all others are; -ENOTSUP; -ETIMEDOUT; -EDEADLK.
 * Threads: the session's.
 */
THMQ_API int thmq_cluster_lead(struct thmq_session *session, uint64_t id, uint64_t timeout_ns);

/**
 * thmq_cluster_drain() - a broker leads nothing from now on, so that it can be stopped, or its machine be worked on
 * @id: which  @timeout_ns: 0: the session's
 * That is remembered by all of them, whoever is closed and opened meanwhile, until thmq_cluster_undrain(): see drained in struct thmq_node. One that is elected all
 * the same hands over at once. It keeps its vote and its copies; and it does lead while nobody else is there who can.
 * Return: 0 it is so, and another one leads; -EBUSY no other node that has a vote may lead: they are drained; -EINVAL there is no such node; -ENOTSUP; -ETIMEDOUT
 * it is remembered, but it may lead still; -EDEADLK; -ENOSPC …
 * Threads: the session's.
 * Source: doc/copies.md
 */
THMQ_API int thmq_cluster_drain(struct thmq_session *session, uint64_t id, uint64_t timeout_ns);

/**
 * thmq_cluster_undrain() - it may lead again; it does not for that
 * Return: 0 also if it was not drained; -EINVAL there is no such node; -ENOTSUP; -ETIMEDOUT; -EDEADLK; -ENOSPC …
 * Threads: the session's.
 */
THMQ_API int thmq_cluster_undrain(struct thmq_session *session, uint64_t id, uint64_t timeout_ns);

/* ----------------------------------------------------------------- producer */

/*
 * How payloads are made small on their way to the broker, in its log, and on their way out: each by itself, by the producer, and unpacked
 * by thmq_fetch(). Keys, tags and headers are not. The codec's library (liblz4, libzstd) is loaded when it is needed.
 */
enum thmq_compression {
	THMQ_COMPRESSION_NONE = 0,
	THMQ_COMPRESSION_LZ4 = 1, /* fast */
	THMQ_COMPRESSION_ZSTD = 2 /* small */
};

struct thmq_producer_opts {
	uint32_t size;
	uint32_t flags; /* THMQ_PRODUCER_* */
	uint32_t
		durability; /* enum thmq_durability of its messages; default DURABLE (MEMORY on a volatile topic) */
	uint32_t compression; /* enum thmq_compression; what does not become smaller goes as it is */
	void *cookie; /* repeated in its events */
	/*
	 * A name, as a topic's, that only one producer of the topic has at a time: who opens it takes over from whoever had it before,
	 * in any process; that one's messages are refused with -THMQ_EFENCED from then on. Its sequences go on from the highest
	 * that is stored, which thmq_watermark() tells after the open: so an application that died knows how far it came.
	 * They are kept with the messages, through restarts, until the topic is deleted. NULL: none
	 */
	const char *name;
	uint32_t compress_min;  /* payloads below so many bytes are not compressed, nor those above a quarter of the session's window; 0 means 512 */
	int32_t compress_level; /* ZSTD: 1 … 19, negative ones are faster; LZ4: from 1 on, higher ones are faster; 0 means 1 */
};

#define THMQ_PRODUCER_REPORT 1u /* a THMQ_EVENT_SETTLED for every message; its offset is UINT64_MAX if it was sent again */

#define THMQ_PRODUCER_OPTS(...)                                                                    \
	(&(struct thmq_producer_opts){.size = sizeof(struct thmq_producer_opts), __VA_ARGS__})

/** thmq_producer_opts_init() - set @opts to the defaults */
THMQ_API void thmq_producer_opts_init(struct thmq_producer_opts *opts, uint32_t size);
#define thmq_producer_opts_init(opts) thmq_producer_opts_init((opts), sizeof(struct thmq_producer_opts))

/**
 * thmq_producer_open() - open a producer for a topic
 * Return: 0; -THMQ_ENOTOPIC; -EACCES the broker's rules do not allow it; -EINVAL; -EBUSY another is just being opened by its name; -EOPNOTSUPP the compression's library is not there (thmq_errmsg()
 * names it); -ENOMEM; -ETIMEDOUT; -EDEADLK.
 */
THMQ_API int thmq_producer_open(struct thmq_session *session, const char *topic,
				const struct thmq_producer_opts *opts,
				struct thmq_producer **ret_producer);

/**
 * thmq_producer_close() - settle and close
 * @timeout_ns: how long outstanding messages may take; open claims are aborted
 * Return: 0; -ETIMEDOUT closed, outcome of some messages unknown; -EIO closed, some messages failed;
 * -EINVAL; -EDEADLK nothing was done.
 */
THMQ_API int thmq_producer_close(struct thmq_producer *producer, uint64_t timeout_ns);

/**
 * thmq_producer_len_max() - the largest payload that a claim can have here, key, tag and headers counted
 * Up to THMQ_MESSAGE_MAX, where window_bytes of the session is larger than that: a message lies there in one piece. On a volatile
 * topic it is what a batch of the broker holds.
 * Return: bytes; 0 if closed.
 */
THMQ_API uint32_t thmq_producer_len_max(const struct thmq_producer *producer);

/* What a header's value is. The library looks at none: it is what the two ends agree on. */
enum thmq_header_type {
	THMQ_HEADER_BYTES = 0,
	THMQ_HEADER_TEXT = 1, /* UTF-8, without a final NUL */
	THMQ_HEADER_INT = 2,  /* an int64_t of this machine, 8 bytes */
	THMQ_HEADER_REAL = 3, /* a double of this machine, 8 bytes */
	THMQ_HEADER_BOOL = 4  /* 1 byte, 0 or 1 */
};

/* A name and a value that go with a message: what it is about, who wrote it, how it was traced. Names may occur more than once. */
struct thmq_header {
	const char *name;   /* NUL-terminated, of 1 to THMQ_HEADER_NAME_MAX bytes */
	const void *value;  /* may be NULL if value_len is 0. Of a fetched message: not aligned, memcpy() it */
	uint32_t value_len; /* any number of BYTES and TEXT; else as enum thmq_header_type says */
	uint32_t type;      /* enum thmq_header_type */
};

/*
 * What a payload can be that is stored as it is, and is many messages: they take that many offsets, one after the other, in one piece. Who
 * reads gets them as messages, or all in that piece with THMQ_CONSUMER_ENCODED. doc/kafka.md
 */
enum thmq_encoding {
	THMQ_ENCODING_NONE = 0, /* one message */
	/* A record batch of Kafka's protocol, version 2, of up to 65536 records; one whose attributes say that it is of a transaction is sent in one. The offsets in it mean nothing */
	THMQ_ENCODING_KAFKA = 4,
	THMQ_ENCODING_PACKED = 5 /* what thmq_send_batch() makes: doc/format.md */
};

struct thmq_message_opts {
	uint32_t size;
	uint32_t flags;      /* THMQ_MESSAGE_* */
	const void *key;     /* NULL: none; copied */
	const char *tag;     /* NULL: none; copied */
	uint32_t key_len;    /* 1 to THMQ_KEY_MAX, with a key */
	uint32_t partition;  /* with THMQ_MESSAGE_PARTITION, else 0 */
	uint32_t durability; /* enum thmq_durability; default: the producer's */
	uint32_t reserved;
	int64_t time_ns; /* with THMQ_MESSAGE_TIME: the message's own time, ns since 1970; else 0: the broker's */
	const struct thmq_header *headers; /* header_count of them, THMQ_HEADERS_MAX bytes at most; copied */
	uint32_t header_count;
	/*
	 * enum thmq_encoding of the payload, which has no key, tag, time, headers … beside it then, and fits into a batch. It is checked
	 * by the broker: -THMQ_ECORRUPT, -EINVAL, -EMSGSIZE, -EOPNOTSUPP in its THMQ_EVENT_FAILED say what is wrong. One sequence, and one
	 * THMQ_EVENT_SETTLED, whose offset is that of the first message in it.
	 */
	uint32_t encoding;
	uint64_t ttl_ns; /* so long after its time it is of no use: it is not handed out any more; 0: for ever, or as the topic says */
	/*
	 * With THMQ_MESSAGE_EXPECT_END: it is stored only if this is its partition's end_offset then, one past the last message, as
	 * thmq_partition_describe() tells once all is visible; where there are several a partition or a key says which. With THMQ_MESSAGE_EXPECT_KEY: only if this is the offset of the newest message
	 * with its key, UINT64_MAX if there is to be none: thmq_key_find(). Else it is refused with -THMQ_ECONFLICT by a THMQ_EVENT_FAILED,
	 * whose offset says what is there. What is sent again after a lost connection is compared once.
	 */
	uint64_t expected;
	/*
	 * When it is to come to its partition: ns since 1970 by the broker's clock, or so long after the broker has it. One of the two; 0:
	 * at once. It is settled once it is stored, and its THMQ_EVENT_SETTLED has in offset the number that thmq_delayed_cancel() wants. One
	 * batch is as long as it may be. Not on a volatile topic, and not with what is expected. doc/delayed.md
	 */
	int64_t deliver_at_ns;
	uint64_t delay_ns;
	uint32_t priority; /* of a topic with priorities: 0, the lowest, … priorities - 1; of any other: 0. partition counts those of one priority then */
	uint32_t reserved3;
	/* It is seen once this is committed, and never if it is not. One batch is as long as it may be; not on a volatile or compacted topic, not delayed,
	 * not with what is expected. NULL: at once. doc/transactions.md */
	struct thmq_txn *txn;
};

#define THMQ_MESSAGE_PARTITION 1u /* partition is set; else by key's hash; else in turns, up to 64 messages or 64 KiB to each */
#define THMQ_MESSAGE_TIME 2u      /* time_ns is set */
#define THMQ_MESSAGE_EXPECT_END 4u /* expected is set: an offset of the partition */
#define THMQ_MESSAGE_EXPECT_KEY 8u /* expected is set: an offset of the key, which there must be. Not on a volatile topic */

#define THMQ_MESSAGE_OPTS(...)                                                                     \
	(&(struct thmq_message_opts){.size = sizeof(struct thmq_message_opts), __VA_ARGS__})

/** thmq_message_opts_init() - set @opts to the defaults */
THMQ_API void thmq_message_opts_init(struct thmq_message_opts *opts, uint32_t size);
#define thmq_message_opts_init(opts) thmq_message_opts_init((opts), sizeof(struct thmq_message_opts))

/* Room for one message. Fields are the library's, data's bytes are the app's until commit or abort. */
struct thmq_claim {
	void *data;
	uint32_t len;
	uint32_t partition;
	uint64_t internal[4];
};

/**
 * thmq_claim() - reserve room for one message in the session's memory
 * @producer: open producer, on its owner thread
 * @opts: key, tag, partition; NULL for none. A message's durability is chosen here too.
 * @len: payload bytes, 0 … thmq_producer_len_max()
 * @ret_claim: out; data[0 … len) is writable and 8-byte aligned, valid until commit or abort
 *
 * Claims may be committed in any order; log order is commit order. Room comes back in claim order, once
 * settled, so that a claim that is never finished ends in -EAGAIN for its own session only.
 *
 * Return: 0; -EAGAIN window full, poll and try again; -EMSGSIZE; -EINVAL; -THMQ_ENOPARTITION;
 * -THMQ_ENOTOPIC the topic was deleted; -THMQ_EFENCED another has this producer's name; -ESHUTDOWN the broker is gone;
 * -THMQ_ENOQUORUM no majority of the copies is there: try again later. -EINVAL is also a priority that the topic
 * does not have.
 * Threads: owner only; never blocks, allocates or does I/O, except that the first claim for a partition
 * whose shard the session does not use yet connects to it (-EAGAIN until it is connected).
 */
THMQ_API int thmq_claim(struct thmq_producer *producer, const struct thmq_message_opts *opts,
			uint32_t len, struct thmq_claim *ret_claim);

/**
 * thmq_commit() - hand a claimed message to the broker
 * @claim: from thmq_claim() of this producer; spent afterwards
 * Return: its sequence, from 1, rising by one per commit of this producer; ordered, not yet durable;
 * -EAGAIN the broker's queue is full and the claim is still held: poll and commit again;
 * -EINVAL not an open claim of this producer; -ECANCELED its transaction is over, or about to be, -ESHUTDOWN (the claim is spent).
 */
THMQ_API int64_t thmq_commit(struct thmq_producer *producer, struct thmq_claim *claim);

/**
 * thmq_abort() - give a claim back unsent; it uses no sequence
 * Return: 0; -EINVAL.
 */
THMQ_API int thmq_abort(struct thmq_producer *producer, struct thmq_claim *claim);

/* Room for messages of one length: the payload of the i-th lies at data + i * step. Fields are the library's, payloads are the app's until commit or abort. */
struct thmq_row {
	void *data;
	uint32_t len;  /* of each */
	uint32_t step; /* from one to the next, at least len */
	uint32_t count;
	uint32_t partition;
	uint64_t internal[4];
};

/* The most messages of a row. */
#define THMQ_ROW_MAX 1024u

/**
 * thmq_claim_row() - reserve room for messages of one length, side by side
 * @producer: open producer, on its owner thread
 * @opts: partition, priority, durability, for all of them; NULL for none. They have nothing but their payloads.
 * @len: payload bytes of each, 0 … one batch of the broker's holds
 * @count: messages, 1 … THMQ_ROW_MAX
 * @ret_row: out; count payloads of len bytes are writable, each 8-byte aligned, valid until commit or abort
 *
 * As many claims by one call, where small messages come in numbers: they go to one partition, to the broker by one word where its memory is
 * shared, and are stored together. A consumer sees messages as all others. They are never compressed.
 *
 * Return: 0; -EAGAIN window full, poll and try again; -EMSGSIZE one is too large, or all of them are for the session's window;
 * -EINVAL, also for options that a row does not have; all others as thmq_claim().
 * Threads: owner only; never blocks, allocates or does I/O, except as thmq_claim().   Source: doc/transports.md
 */
THMQ_API int thmq_claim_row(struct thmq_producer *producer, const struct thmq_message_opts *opts, uint32_t len, uint32_t count,
			    struct thmq_row *ret_row);

/**
 * thmq_commit_row() - hand a claimed row to the broker
 * @row: from thmq_claim_row() of this producer; spent afterwards
 * @count: how many of it, from the first on, 1 … its count; the others are given back unsent
 * Return: the sequence of the last one; those before it have the numbers before that. All of them or, with an error, none was sent:
 * -EAGAIN the broker's queue is full and the row is still held: poll and commit again; -EINVAL not an open row of this producer, or
 * not so many; -ESHUTDOWN (the row is spent).
 */
THMQ_API int64_t thmq_commit_row(struct thmq_producer *producer, struct thmq_row *row, uint32_t count);

/**
 * thmq_abort_row() - give a row back unsent; it uses no sequence
 * Return: 0; -EINVAL.
 */
THMQ_API int thmq_abort_row(struct thmq_producer *producer, struct thmq_row *row);

/**
 * thmq_send() - claim, copy and commit in one call
 * @data: payload, may be NULL if @len is 0
 * Return: sequence, or the errors of claim and commit (with -EAGAIN nothing was taken). Never blocks.
 */
THMQ_API int64_t thmq_send(struct thmq_producer *producer, const void *data, uint32_t len,
			   const struct thmq_message_opts *opts);

/* One of several messages that go together. */
struct thmq_batch_message {
	const void *data; /* len bytes; may be NULL if that is 0 */
	const void *key;  /* NULL: none */
	const char *tag;  /* NULL: none */
	const struct thmq_header *headers; /* header_count of them, THMQ_HEADERS_MAX bytes at most */
	uint64_t ttl_ns;  /* as in struct thmq_message_opts */
	uint32_t len;
	uint32_t key_len; /* 1 to THMQ_KEY_MAX, with a key */
	uint32_t header_count;
	uint32_t reserved; /* 0, as the next one */
	uint64_t reserved2;
};

/* The most messages of a batch. */
#define THMQ_BATCH_MAX 4096u

/**
 * thmq_send_batch() - send messages together, their payloads compressed as one
 * @producer: open producer, on its owner thread
 * @messages: @count of them, 1 … THMQ_BATCH_MAX; copied
 * @opts: partition, priority, durability, transaction, for all of them; NULL for none
 *
 * They are stored side by side, all or none, at consecutive offsets of one partition, with one time: the broker's. To consumers they are messages as all
 * others; keys, tags and headers are found, chosen and compacted by as ever. Small payloads that are alike become much smaller together than each by itself. A producer
 * without compression sends them so, too. They go as they are where they do not become smaller by an
 * eighth, or are together less than the producer's compress_min.
 *
 * All go to the partition that is given, or that the first one's key says: the other keys must say the same then. Together they are as large as
 * one message may be that is not stored in parts; those that are more than half of that are not compressed.
 *
 * Return: the one sequence of all of them, which settle together: THMQ_EVENT_SETTLED has the offset of the first; -EAGAIN window full, poll and try
 * again; -EMSGSIZE; -E2BIG too many bytes of headers; -EINVAL there are none, or more than THMQ_BATCH_MAX; one has a length without bytes, a key that is
 * empty or longer than THMQ_KEY_MAX, a tag longer than THMQ_TAG_MAX, a header that is none, or what is reserved is not 0; the keys are of different partitions;
 * @opts has what each has for itself (key, tag, headers, time to live), or a delay, an expectation, an encoding, a time; all others as thmq_send(). With an error none was
 * taken. A broker of an earlier version refuses them: THMQ_EVENT_FAILED with -EOPNOTSUPP.
 * Threads: owner only; never blocks, allocates or does I/O, except as thmq_claim().   Source: doc/messages.md
 */
THMQ_API int64_t thmq_send_batch(struct thmq_producer *producer, const struct thmq_batch_message *messages, uint32_t count,
				 const struct thmq_message_opts *opts);

/**
 * thmq_flush() - wait until all committed messages of this producer are settled
 * Return: 0 all reached the durability asked for; -EIO some failed since the last flush (events tell
 * which); -ETIMEDOUT, or -THMQ_ENOQUORUM where it was for want of a majority of the copies: what is committed by the app
 * is kept, and sent once it is there; -EDEADLK nobody drives the broker's core; -EINVAL; -ESHUTDOWN.
 */
THMQ_API int thmq_flush(struct thmq_producer *producer, uint64_t timeout_ns);

/**
 * thmq_producer_retry_ns() - how long a limit holds up what this producer sends
 * After an -EAGAIN it is the time after which another try may do better, as far as the broker has told: THMQ_EVENT_LIMITED.
 * Return: ns; 0 no limit is known to hold it up; -EINVAL.
 * Threads: the session's; never blocks.   Source: doc/access.md
 */
THMQ_API int64_t thmq_producer_retry_ns(struct thmq_producer *producer);

/**
 * thmq_watermark() - the highest sequence s such that all up to s are settled
 * Settled is: reached the durability asked for, or failed (an event tells). Takes in what has arrived.
 * Return: sequence, 0 for none; -EINVAL.
 */
THMQ_API int64_t thmq_watermark(struct thmq_producer *producer);

/* ----------------------------------------------------------------- consumer */

enum thmq_start {
	THMQ_START_DEFAULT = 0, /* the group's offset; where it has none, the beginning */
	THMQ_START_BEGIN = 1,
	THMQ_START_END = 2,    /* messages that become visible from now on; of partitions that were added since the group was made, all */
	THMQ_START_OFFSET = 3, /* the given offset */
	THMQ_START_TIME = 4 /* the first message stored at or after the given time, ns since 1970 */
};

struct thmq_consumer_opts {
	uint32_t size;
	uint32_t flags; /* THMQ_CONSUMER_* */
	uint32_t start; /* enum thmq_start where the group has no offset; BEGIN or END or TIME */
	uint32_t prefetch_count; /* messages handed over and not released; 0 means 65536. Of a topic with priorities each has its equal share, and at least one */
	uint64_t prefetch_bytes; /* bytes likewise; 0 means 4 MiB */
	uint64_t start_time_ns;  /* for THMQ_START_TIME */
	uint64_t
		session_timeout_ns; /* silent for so long means dead: its partitions go to others, fetch returns
				       -THMQ_EFENCED; 0 means 10 s. 100 ms to a year: a thread that waits in a call is heard of each 100 ms */
	void *cookie;               /* repeated in its events */
	const char *const *tags;    /* only messages with one of these tags; NULL: all. Copied. Not of a shared group */
	uint64_t invisible_ns; /* with THMQ_CONSUMER_SHARED: how long a message is this member's alone, 1 ms to a year: then others get it; 0 means 30 s */
	uint32_t tag_count;    /* up to THMQ_CONSUMER_TAGS_MAX */
	uint32_t deliver_max;  /* a message that was handed out so often and came back is a dead letter; 0: no limit */
	/* With THMQ_CONSUMER_SHARED */
	const uint64_t *backoff_ns; /* what THMQ_NACK_BACKOFF waits after the first delivery, after the second …, the last for all further
				       ones; copied */
	const char *dead_topic; /* where dead letters go, made with one partition where it is not there; NULL: they are dropped. Copied */
	uint32_t backoff_count; /* up to THMQ_CONSUMER_BACKOFF_MAX */
	uint32_t partition;     /* with THMQ_CONSUMER_PARTITION, else 0 */
	/*
	 * Only messages of which this is true, such as "price > 10 AND region LIKE 'eu%'": an expression over headers, KEY, TAG and
	 * TIMESTAMP that the broker looks at before it hands a message out. What it is not true of counts as done for the group.
	 * NULL: all. Copied. doc/filters.md
	 */
	const char *filter;
	/*
	 * Of a group whose members do not share: a name of this member, THMQ_INSTANCE_MAX bytes at most. Who closes its consumer, or dies, and
	 * comes back by the same name within session_timeout_ns has its partitions still: nobody else got them meanwhile. Of two that
	 * use one name at a time the later one has it, the other gets -THMQ_EFENCED. NULL: none. Copied
	 */
	const char *instance;
	uint32_t assignor; /* enum thmq_assignor; where members say different things the one that has been in the group longest counts */
	uint32_t near_cpu; /* with THMQ_ASSIGN_NEAR: the processor that reads, by the system's number, and 1 more; 0: the one that opens the consumer */
};

/* Who of a group's members reads which partition. */
enum thmq_assignor {
	THMQ_ASSIGN_DEFAULT = 0,     /* RANGE */
	THMQ_ASSIGN_RANGE = 1,       /* neighbours together, by the order in which members came; when one comes or goes many move */
	THMQ_ASSIGN_ROUND_ROBIN = 2, /* in turns */
	THMQ_ASSIGN_STICKY = 3, /* none has more than one more than another, and as few move as that allows: one that comes takes from those
				   that have most, what one had that goes is shared out */
	/*
	 * As STICKY, but before that a partition goes to who is near: reads on the processor of the core that serves it, else on the same NUMA node, else on the
	 * same machine as the broker. Of cores that the library's own threads drive, and that are pinned; of others the machine alone is known
	 */
	THMQ_ASSIGN_NEAR = 4
};

#define THMQ_INSTANCE_MAX 63u /* bytes of a member's name */
#define THMQ_FILTER_MAX 1024u /* bytes of a filter */
#define THMQ_CONSUMER_BACKOFF_MAX 64u
#define THMQ_NACK_BACKOFF UINT64_MAX /* as a delay: as backoff_ns says */

#define THMQ_CONSUMER_TAGS_MAX 64u
#define THMQ_CONSUMER_START_ALWAYS 1u /* begin at start even where the group has an offset */
/*
 * The members of the group share every partition: each message goes to one that has room, in no order, and is acknowledged by
 * itself. All members of a group must say so. prefetch_count counts what is not acknowledged then, 0 means 1024. doc/shared.md
 */
#define THMQ_CONSUMER_SHARED 2u
/* Without a group: only this partition, partition being set. For those who share out partitions themselves, as a broker of another protocol does. */
#define THMQ_CONSUMER_PARTITION 4u
/*
 * What was sent in an encoding of its own (enum thmq_encoding) comes as it is: one message, whose data is the whole, offset that of the first
 * one in it, even where the consumer was to begin behind that, and span how many there are. thmq_message_encoding() tells it from others.
 * Without tags, filter and THMQ_CONSUMER_SHARED.
 */
#define THMQ_CONSUMER_ENCODED 8u
#define THMQ_CONSUMER_READ_UNCOMMITTED 16u /* also what transactions have not committed, or have aborted. Not of a shared group */

#define THMQ_CONSUMER_OPTS(...)                                                                    \
	(&(struct thmq_consumer_opts){.size = sizeof(struct thmq_consumer_opts), __VA_ARGS__})

/** thmq_consumer_opts_init() - set @opts to the defaults */
THMQ_API void thmq_consumer_opts_init(struct thmq_consumer_opts *opts, uint32_t size);
#define thmq_consumer_opts_init(opts) thmq_consumer_opts_init((opts), sizeof(struct thmq_consumer_opts))

/**
 * thmq_consumer_open() - read a topic
 * @group: name of a group: its members share the partitions, each partition has one reader at a time, and
 * acks are kept with the messages. NULL: a reader of its own that gets all partitions, or the one that it names, and keeps no offset.
 * Return: 0; -THMQ_ENOTOPIC; -THMQ_ENOPARTITION; -EACCES the broker's rules do not allow it; -EINVAL also a filter that makes no sense: thmq_errmsg() says at which character, and why;
 * -ENAMETOOLONG; -ENOMEM; -ETIMEDOUT, or -THMQ_ENOQUORUM where it was for want of a majority of the copies; -EDEADLK; with THMQ_CONSUMER_SHARED: -EBUSY the group has
 * members that do not share; -EOPNOTSUPP the topic is volatile. The other way round, without it while the group has members that share, the consumer opens, gets
 * nothing, and a THMQ_EVENT_ERROR with -EBUSY.
 */
THMQ_API int thmq_consumer_open(struct thmq_session *session, const char *topic, const char *group,
				const struct thmq_consumer_opts *opts,
				struct thmq_consumer **ret_consumer);

/**
 * thmq_filter_check() - does a filter make sense?
 * @filter: as in struct thmq_consumer_opts
 * @ret_at: out, or NULL; where it does not: which of its bytes is the first that is wrong, from 0
 * Return: 0; -EINVAL: thmq_errmsg() says at which character, and why; -ENOMEM.
 * Threads: any; never blocks.
 */
THMQ_API int thmq_filter_check(const char *filter, uint32_t *ret_at);

/**
 * thmq_consumer_close() - give up the partitions and close
 * Messages that are still held become invalid. Acks sent before are stored first.
 * Return: 0; -ETIMEDOUT, or -THMQ_ENOQUORUM where it was for want of a majority of the copies: closed, the last acks may be lost; -ENOSPC, -EDQUOT,
 * -EFBIG, -EIO, -THMQ_EFAILED closed, the last acks could not be stored; -EINVAL; -EDEADLK nothing was done.
 */
THMQ_API int thmq_consumer_close(struct thmq_consumer *consumer, uint64_t timeout_ns);

/*
 * A view of one message. The bytes are the library's and constant, valid until the message is released or its consumer or
 * session closes; they outlive a broker that closes before.
 */
struct thmq_message {
	const void *data;
	const void *key; /* NULL if none */
	const char *tag; /* NULL if none; not NUL-terminated */
	uint32_t len;
	uint32_t key_len;
	uint32_t tag_len;
	uint32_t partition;
	uint64_t offset;
	int64_t time_ns; /* when it was stored, or its own time, ns since 1970 */
	uint64_t internal[2];
	const void *headers; /* NULL if none; thmq_header_next() and thmq_header_find() read them */
	uint32_t headers_len;
	uint32_t span; /* offsets that it takes: 1, or how many parts it was stored in: what comes next is at offset + span */
};

/**
 * thmq_fetch() - take the next messages, without copying them
 * @ret_messages: out, room for @max
 * What was compressed, by a producer of the library or a client of Kafka's protocol, is unpacked into memory that is taken for it; where the codec's library is not there a THMQ_EVENT_ERROR with -EOPNOTSUPP comes instead
 * of the run that it is in. What has outlived its time to live, or its topic's, by this machine's clock, is stepped over. A message that the broker
 * had to store in parts, since it is larger than a batch, is put together in memory that is taken for it: nobody sees a part, nor any
 * of a message whose last part is not stored. Of a topic with priorities the highest that has come is first, and of each 65 messages one is of a lower priority if
 * such a one waits here.
 * Return: how many; 0 nothing is there now; -ENOBUFS the whole prefetch is held by the app: release first;
 * -EINVAL; -THMQ_ENOTOPIC deleted; -THMQ_EFENCED the group has taken this consumer for dead, since its session was silent
 * for session_timeout_ns: it gets nothing any more, open another; -ESHUTDOWN the broker is gone; -THMQ_EFAILED.
 * Never blocks and never drives a core.
 */
THMQ_API int thmq_fetch(struct thmq_consumer *consumer, struct thmq_message *ret_messages,
			uint32_t max);

/**
 * thmq_header_next() - the headers of a message, one after the other
 * @message: fetched and not released
 * @cursor: 0 at the first call, then as it was left
 * @ret_header: out; name and value lie in the message, and are valid as long as it is
 * Return: 1 one; 0 there are no more; -THMQ_ECORRUPT the bytes are no headers; -EINVAL.
 * Threads: any; never blocks, allocates or does I/O.
 */
THMQ_API int thmq_header_next(const struct thmq_message *message, uint32_t *cursor, struct thmq_header *ret_header);

/**
 * thmq_header_find() - the first header of that name
 * @name: NUL-terminated; upper and lower case are different
 * @ret_header: out; as of thmq_header_next()
 * Return: 0; -ENOENT there is none; -THMQ_ECORRUPT the bytes are no headers; -EINVAL.
 * Threads: any; never blocks, allocates or does I/O.
 */
THMQ_API int thmq_header_find(const struct thmq_message *message, const char *name, struct thmq_header *ret_header);

/**
 * thmq_release() - give fetched messages back, in any order
 * Return: 0; -EINVAL one of them is not held (those before it were released).
 */
THMQ_API int thmq_release(struct thmq_consumer *consumer, struct thmq_message *messages,
			  uint32_t count);

/**
 * thmq_ack() - all messages of @message's partition up to and with @message are done
 * The group's offset is stored durably with the next group commit; thmq_consumer_flush() waits for that.
 * The message need not be held any more, but must be as it was fetched: keep a copy of the struct, not only its offset.
 * Return: 0 taken; -EAGAIN queue full, poll and try again; -EINVAL no group, or not a fetched message;
 * -THMQ_EFENCED the partition belongs to another member now; -ESHUTDOWN.
 * In a shared group it says that this one message is done, whoever has it by now. It goes to the broker with the next call on the
 * session, or sooner; -EAGAIN: not taken.
 */
THMQ_API int thmq_ack(struct thmq_consumer *consumer, const struct thmq_message *message);

/**
 * thmq_nack() - give a message of a shared group back, to be handed out again
 * @delay_ns: not before this time has passed; 0: at once; THMQ_NACK_BACKOFF: by how often it was handed out, if it is held. A broker that is opened again has forgotten it, and hands it out at once
 * The message need not be held any more, as with thmq_ack(). Where it is not this member's any more nothing happens.
 * Return: 0 taken; -EAGAIN queue full, or the connection is being made again; -EINVAL not a fetched message, or the group is not
 * shared; -ESHUTDOWN.
 */
THMQ_API int thmq_nack(struct thmq_consumer *consumer, const struct thmq_message *message, uint64_t delay_ns);

/**
 * thmq_extend() - keep a message of a shared group for longer
 * @invisible_ns: from now on; up to a year
 * Where it is not this member's any more nothing happens.
 * Return: as thmq_nack().
 */
THMQ_API int thmq_extend(struct thmq_consumer *consumer, const struct thmq_message *message, uint64_t invisible_ns);

/**
 * thmq_reject() - a message of a shared group is a dead letter: it will never succeed
 * @message: held: fetched, and not released. It may be released at once
 * @reason: text for whoever looks at dead letters, up to 1000 bytes of it; NULL: none
 * It goes to dead_topic, with its key, tag and headers, and those that say where it comes from: doc/shared.md. It is done once that is
 * stored, and comes again if it cannot be.
 * Return: 0 taken; -EAGAIN no room now, poll and try again; -EOPNOTSUPP the consumer has no dead_topic; -EMSGSIZE it does not fit there;
 * -EINVAL not a message that is held; -THMQ_ENOTOPIC dead_topic was deleted; -ESHUTDOWN.
 */
THMQ_API int thmq_reject(struct thmq_consumer *consumer, const struct thmq_message *message, const char *reason);

/**
 * thmq_message_encoding() - is a message of a THMQ_CONSUMER_ENCODED many in one piece?
 * @message: of this consumer, and held
 * Return: enum thmq_encoding; -EINVAL.
 * Threads: the session's; never blocks, allocates or does I/O.
 */
THMQ_API int thmq_message_encoding(const struct thmq_consumer *consumer, const struct thmq_message *message);

/**
 * thmq_message_deliveries() - how often a message of a shared group was handed out, this time included
 * @message: held: fetched, and not released
 * A crash of the broker may make it forget the last times.
 * Return: 1 …; 0 the group is not shared; -EINVAL not a message that is held.
 */
THMQ_API int thmq_message_deliveries(const struct thmq_consumer *consumer, const struct thmq_message *message);

/**
 * thmq_message_priority() - which priority a message has
 * @message: fetched by @consumer; it need not be held any more
 * Return: 0 …; 0 where the topic has no priorities; -EINVAL not a fetched message.
 * Threads: the session's; never blocks.   Source: doc/priorities.md
 */
THMQ_API int thmq_message_priority(const struct thmq_consumer *consumer, const struct thmq_message *message);

/**
 * thmq_consumer_flush() - wait until all acks are stored durably
 * Return: 0; -THMQ_EFENCED some were refused since the last flush: the partition has gone to another member, or its topic
 * is gone, or it could not be stored when it went, or some were under way when a connection was lost (of a shared group): those
 * messages come again, unless their acks were stored after all; those that were taken before are stored; -THMQ_EOFFSETRANGE some are of messages that the broker does not have any more (seen
 * before they were durable, and lost with it), told once; -ETIMEDOUT; -ENOSPC, -EDQUOT,
 * -EFBIG, -EIO some cannot be stored now, and will be once the cause is gone; -THMQ_EFAILED; -EDEADLK; -EINVAL; -ESHUTDOWN.
 */
THMQ_API int thmq_consumer_flush(struct thmq_consumer *consumer, uint64_t timeout_ns);

/**
 * thmq_seek() - continue elsewhere
 * @partition: which of the topic's partitions; UINT32_MAX: all that this consumer has
 * @start: THMQ_START_BEGIN, _END, _OFFSET or _TIME
 * @value: the offset or the time; else 0
 * What was prefetched is dropped; what the app holds stays valid. Acks already stored stay as they are.
 * Return: 0 when done; -THMQ_EOFFSETRANGE (thmq_errmsg() has the bounds); -THMQ_ENOPARTITION; -EPERM the
 * partition is not this consumer's, or not yet: a group's member has it from THMQ_EVENT_ASSIGNED on; -EINVAL; -ETIMEDOUT; -EDEADLK.
 */
THMQ_API int thmq_seek(struct thmq_consumer *consumer, uint32_t partition, uint32_t start,
		       uint64_t value);

/**
 * thmq_consumer_position() - how far a consumer is in a partition
 * @ret_offset: out; all before it was fetched, or is nothing for this consumer: it has other tags, the filter is not true of it, it is over
 * The broker is asked. Once it is at the end_offset that thmq_partition_describe() told, all that was there then has been fetched. Where nothing
 * is taken out the message that was fetched last tells as much: offset + span.
 * Return: 0; -THMQ_ENOPARTITION; -EPERM the partition is not this consumer's; -EOPNOTSUPP its group is shared; -EACCES; -EINVAL; -ETIMEDOUT;
 * -EDEADLK; -ESHUTDOWN.
 * Threads: the session's; blocks until the answer comes.
 */
THMQ_API int thmq_consumer_position(struct thmq_consumer *consumer, uint32_t partition, uint64_t *ret_offset);

/* ------------------------------------------------------------------- groups */

struct thmq_group_info {
	uint32_t size; /* in: of each element */
	uint32_t group_id;
	uint32_t member_count; /* of those that do not share */
	uint32_t assignor;     /* enum thmq_assignor of these */
	char name[256];
	/* of thmq_group_describe() only */
	uint32_t partition_count;
	uint32_t reader_count; /* partitions that are read at the moment; in a shared group readers of each, added up */
	uint64_t lag;          /* of all partitions, as in struct thmq_partition_info */
	uint32_t flags;        /* THMQ_GROUP_IS_SHARED */
	uint32_t reserved;
};

#define THMQ_GROUP_IS_SHARED 1u /* its members share partitions, or did: not known of one that was never read from, and not told by brokers of earlier versions */

struct thmq_group_member {
	uint32_t size; /* in: of each element */
	uint32_t partition_count; /* that it reads, or will when others have let go of them */
	uint64_t id;
	uint64_t silent_ns; /* since its session was last heard of */
	uint32_t away;      /* 1: its connection is lost, or it has closed; it has its partitions while it may come back */
	uint32_t reserved;
	char instance[64]; /* "" if none */
};

#define THMQ_GROUP_FORCE 1u /* members are put out of the group first: they get -THMQ_EFENCED */

/**
 * thmq_group_list() - the groups of a topic, oldest first
 * @ret_infos: out, @max elements, each with its size field set by the caller in the first one
 * Return: the number of groups there are (perhaps more than @max: the first @max are filled); -THMQ_ENOTOPIC; -EINVAL; -ETIMEDOUT;
 * -EDEADLK.
 */
THMQ_API int thmq_group_list(struct thmq_session *session, const char *topic, struct thmq_group_info *ret_infos, uint32_t max);

/**
 * thmq_group_describe() - one group, with its lag
 * Each shard is asked for each of its partitions. thmq_partition_describe() tells of one.
 * Return: 0; -ENOENT; -THMQ_ENOTOPIC; -EINVAL; -ETIMEDOUT; -EDEADLK.
 */
THMQ_API int thmq_group_describe(struct thmq_session *session, const char *topic, const char *group, struct thmq_group_info *ret_info);

/**
 * thmq_group_members() - who is in a group, in the order of joining
 * Those of a shared group are not known one by one.
 * Return: as thmq_group_list(), of members; -ENOENT no such group.
 */
THMQ_API int thmq_group_members(struct thmq_session *session, const char *topic, const char *group, struct thmq_group_member *ret_members,
				uint32_t max);

/**
 * thmq_group_owners() - which member reads which partition
 * @ret_members: out, @max elements: of partition i the place of its reader in what thmq_group_members() gives at that moment;
 * UINT32_MAX: nobody, or it is changing hands
 * Return: the number of partitions (perhaps more than @max); -ENOENT; -THMQ_ENOTOPIC; -EINVAL; -ETIMEDOUT; -EDEADLK.
 */
THMQ_API int thmq_group_owners(struct thmq_session *session, const char *topic, const char *group, uint32_t *ret_members, uint32_t max);

/**
 * thmq_group_reset() - say where a group goes on
 * @partition: which one; UINT32_MAX: all
 * @start: THMQ_START_BEGIN, _END, _OFFSET or _TIME; by TIME it goes on with the run that has the first message of that time, so that a
 * few that are older may come with it
 * @value: the offset or the time; else 0
 * @flags: THMQ_GROUP_FORCE, or 0
 * In a shared group what lay behind is not done any more, and all before is.
 * Return: 0 when durable; -EBUSY it has members, or readers; -ENOENT no such group; -THMQ_EOFFSETRANGE; -THMQ_ENOPARTITION;
 * -THMQ_ENOTOPIC; -EINVAL; -ETIMEDOUT, -EDEADLK. Where it fails half-way some partitions are reset.
 */
THMQ_API int thmq_group_reset(struct thmq_session *session, const char *topic, const char *group, uint32_t partition, uint32_t start,
			      uint64_t value, uint32_t flags);

/**
 * thmq_group_delete() - forget a group, and what it has acknowledged
 * @flags: THMQ_GROUP_FORCE, or 0
 * A group of that name that is opened later is another one.
 * Return: 0 when durable; -EBUSY it has members, or readers; -ENOENT no such group; -THMQ_ENOTOPIC; -EINVAL; -ETIMEDOUT, -ECONNRESET
 * outcome unknown; -EDEADLK.
 */
THMQ_API int thmq_group_delete(struct thmq_session *session, const char *topic, const char *group, uint32_t flags);

/* --------------------------------------------------------- requests, replies */

/*
 * A request is a message of any topic that says in headers where its answer goes: THMQ_REPLY_TOPIC, and THMQ_REPLY_ID, by which the
 * asker knows it. The answer goes to a topic of the asker's session alone, in memory, which is made with its first request and is gone
 * with it. Whoever reads the request answers by thmq_reply(), from any session. doc/requests.md
 */
#define THMQ_REPLY_TOPIC "thmq-reply-topic" /* text */
#define THMQ_REPLY_ID "thmq-reply-id"       /* int */

struct thmq_response {
	uint64_t request; /* what thmq_request() returned */
	void *cookie;     /* and was given */
	struct thmq_message message; /* valid until thmq_response_release() */
	uint64_t reserved[2];
};

/**
 * thmq_request() - send a message, and expect an answer to it
 * @data, @len, @opts: as of thmq_send(); two more headers are added
 * @timeout_ns: how long the answer may take; up to a day
 * @cookie: repeated with the answer, or the event
 * The first request of a session blocks while its topic for answers is made, and so does the first after a broker was opened again. An
 * answer comes by thmq_responses(); where none does in time THMQ_EVENT_REQUEST_EXPIRED comes, and an answer that is late is dropped.
 * Return: a number of the request, above 0; -EAGAIN window full, or THMQ_REQUESTS_MAX are out; the errors of thmq_send(); first: those
 * of thmq_topic_create(), thmq_consumer_open().
 * Threads: the session's.
 */
THMQ_API int64_t thmq_request(struct thmq_producer *producer, const void *data, uint32_t len, const struct thmq_message_opts *opts,
			      uint64_t timeout_ns, void *cookie);

#define THMQ_REQUESTS_MAX 16384u /* of a session, unanswered */

/**
 * thmq_responses() - take answers that have come
 * @ret_responses: out, room for @max
 * Return: how many; 0 none is there now; -ENOBUFS the app holds too many: release first; -EINVAL; -ESHUTDOWN. Never blocks.
 */
THMQ_API int thmq_responses(struct thmq_session *session, struct thmq_response *ret_responses, uint32_t max);

/**
 * thmq_response_release() - give answers back, in any order
 * Return: 0; -EINVAL one of them is not held (those before it were released).
 */
THMQ_API int thmq_response_release(struct thmq_session *session, struct thmq_response *responses, uint32_t count);

/**
 * thmq_call() - ask, and wait for the answer
 * @ret_response: out; to be released. Answers to other requests that come meanwhile wait for thmq_responses().
 * Return: 0; -ETIMEDOUT; the errors of thmq_request(), where -EAGAIN is waited for; -EDEADLK nobody drives a core; -ESHUTDOWN.
 */
THMQ_API int thmq_call(struct thmq_producer *producer, const void *data, uint32_t len, const struct thmq_message_opts *opts,
		       uint64_t timeout_ns, struct thmq_response *ret_response);

/**
 * thmq_reply() - answer a request
 * @session: any, of this broker
 * @request: a message that was fetched and is held, with the headers of a request
 * @data, @len, @opts: of the answer; partition and conditions must not be set
 * The first answer to an asker blocks while its topic is looked up; a session remembers the latest 64.
 * Return: above 0: it is on its way, and whether it arrives the asker alone learns; -ENOENT the message is no request; -THMQ_ENOTOPIC
 * the asker is gone; -EAGAIN window full: poll and try again; the errors of thmq_send() and thmq_producer_open().
 * Threads: the session's.
 */
THMQ_API int64_t thmq_reply(struct thmq_session *session, const struct thmq_message *request, const void *data, uint32_t len,
			    const struct thmq_message_opts *opts);

/* ------------------------------------------------------------- transactions */

/*
 * Messages to any topics and partitions of a broker, and acknowledgements of messages of any of its topics, that count all or not at all.
 * doc/transactions.md
 */
struct thmq_txn_opts {
	uint32_t size;
	uint32_t flags; /* none yet */
	/* As a producer's, whose it may be: who begins another one of this name, or opens a named producer of it, has aborted the one that was open. NULL: none */
	const char *name;
	uint64_t timeout_ns; /* it is aborted if it is open for longer; up to an hour; 0 means 60 s */
	uint64_t check_ns;   /* once it is prepared: how often it is asked what is to become of it; up to an hour; 0 means 30 s */
	uint32_t check_max;  /* after so many times in vain it is aborted; up to 1000; 0 means 15 */
	uint32_t reserved;
};

#define THMQ_TXN_OPTS(...)                                                                         \
	(&(struct thmq_txn_opts){.size = sizeof(struct thmq_txn_opts), __VA_ARGS__})

/** thmq_txn_opts_init() - set @opts to the defaults */
THMQ_API void thmq_txn_opts_init(struct thmq_txn_opts *opts, uint32_t size);
#define thmq_txn_opts_init(opts) thmq_txn_opts_init((opts), sizeof(struct thmq_txn_opts))

/**
 * thmq_txn_begin() - begin a transaction
 * @opts: NULL means defaults
 * @ret_txn: out; the session's, until it is committed or aborted, or the session closes, which aborts it
 * Messages are sent in it by the txn of their options, acknowledgements by thmq_txn_ack(). Several may be open at a time.
 * Return: 0; -ENOTSUP the broker has no directory; -ENOBUFS too many are open; -EINVAL; -ENAMETOOLONG; -ENOMEM;
 * -ETIMEDOUT; -ECONNRESET; -EDEADLK; -ESHUTDOWN.
 * Threads: the session's; blocks until the answer comes.
 * Source: doc/transactions.md
 */
THMQ_API int thmq_txn_begin(struct thmq_session *session, const struct thmq_txn_opts *opts, struct thmq_txn **ret_txn);

/** thmq_txn_id() - its number, which no other transaction of this broker ever has. Return: 0 it is not open. Threads: the session's. */
THMQ_API uint64_t thmq_txn_id(const struct thmq_txn *txn);

/**
 * thmq_txn_ack() - all messages of @message's partition up to and with @message are done, if the transaction is committed
 * @consumer: of a group that is not shared, and of the transaction's session
 * @message: as of thmq_ack(), which is not called for it. The group goes on there only with the commit; where it is aborted the consumer goes back by thmq_seek()
 * Return: 0; -THMQ_EFENCED the partition belongs to another member now; -EAGAIN the connection is being made again; -EOPNOTSUPP a shared
 * group; -EINVAL no group, not a fetched message, or not an open transaction of this session; -ENOMEM; -ESHUTDOWN.
 * Threads: the session's; never blocks.
 */
THMQ_API int thmq_txn_ack(struct thmq_txn *txn, struct thmq_consumer *consumer, const struct thmq_message *message);

/**
 * thmq_txn_prepare() - all of it is durable, and whether it is committed is said later, by anybody
 * It must have a name, and acknowledge nothing. From now on it outlives its session and the broker: it is committed or aborted by thmq_txn_commit(),
 * thmq_txn_abort(), or thmq_txn_decide() of a session that watches its name, which is asked every check_ns. Nothing is added to it any more.
 * Return: 0; -ETIMEDOUT, -ECONNRESET, -EDEADLK it is not known whether it is: call again; as of thmq_txn_commit(), where it was aborted.
 * Threads: the session's; blocks.
 */
THMQ_API int thmq_txn_prepare(struct thmq_txn *txn, uint64_t timeout_ns);

/**
 * thmq_txn_commit() - all of it counts, or nothing
 * @timeout_ns: how long it may take
 * Its messages are durable then, whatever their producers wait for; consumers see them soon, those of each partition together.
 * Return: 0 it is committed, durably, and @txn is over. -ETIMEDOUT, -ECONNRESET, -EDEADLK, with copies -THMQ_ENOTLEADER, -THMQ_ENOQUORUM: it is not known, @txn
 * is still there: call it again. All others
 * mean that it is aborted, and over: -EIO some of its messages were refused; -THMQ_EFENCED another has taken its name, or a partition of what it
 * acknowledges; -ECANCELED its time was over, or the broker was opened again meanwhile, or another copy leads; -THMQ_EFAILED a shard has failed: what was
 * stored is known at the next open; -ENOSPC …; -EINVAL not an open transaction; -ESHUTDOWN the session is dead, and so it is not known.
 * Threads: the session's; blocks.
 */
THMQ_API int thmq_txn_commit(struct thmq_txn *txn, uint64_t timeout_ns);

/**
 * thmq_txn_abort() - nothing of it counts
 * Return: 0; -EALREADY it is committed; -ETIMEDOUT, -ECONNRESET no answer came: it is aborted at the latest when its time is over; -EINVAL; -EDEADLK nothing was
 * done. In all other cases @txn is over.
 * Threads: the session's; blocks.
 */
THMQ_API int thmq_txn_abort(struct thmq_txn *txn, uint64_t timeout_ns);

/**
 * thmq_txn_watch() - decide about prepared transactions of a name
 * THMQ_EVENT_TXN_CHECK comes for those about which nobody has decided; of several sessions that watch one of them is asked each time. Where the session's
 * connection was lost (THMQ_EVENT_RECONNECTED) it is called again. It ends with the session.
 * Return: 0; -ENOTSUP; -EACCES the broker's rules do not allow it; -EINVAL; -ENAMETOOLONG; -ENOMEM; -ETIMEDOUT; -EDEADLK.
 * Threads: the session's; blocks until the answer comes.
 */
THMQ_API int thmq_txn_watch(struct thmq_session *session, const char *name);

enum thmq_txn_decision { THMQ_TXN_COMMIT = 1, THMQ_TXN_ABORT = 2 };

/**
 * thmq_txn_decide() - what becomes of a transaction whose name this session watches
 * @id: as thmq_txn_id() and THMQ_EVENT_TXN_CHECK tell  @decision: enum thmq_txn_decision
 * Return: 0 it is so, durably; -ECANCELED it is aborted; -EALREADY it is committed; -EPERM its name is not watched here; -EINVAL; -ETIMEDOUT, -ECONNRESET not known:
 * call it again; -ENOSPC; -THMQ_EFAILED; -EDEADLK.
 * Threads: the session's; blocks.
 */
THMQ_API int thmq_txn_decide(struct thmq_session *session, uint64_t id, uint32_t decision, uint64_t timeout_ns);

enum thmq_txn_state {
	THMQ_TXN_OPEN = 1,
	THMQ_TXN_ENDING = 2,   /* its commit, abort or preparation is under way */
	THMQ_TXN_PREPARED = 3, /* it waits for a decision */
	THMQ_TXN_IN_DOUBT = 4  /* a log has failed under its end: what became of it is known when the broker is opened again */
};

struct thmq_txn_info {
	uint32_t size;      /* in: of each element */
	uint32_t state;     /* enum thmq_txn_state */
	uint64_t id;        /* as of thmq_txn_id() */
	uint64_t since_ns;  /* when it was begun, or, if it was prepared, when that was stored; ns since 1970 */
	uint64_t left_ns;   /* OPEN: until it is aborted; PREPARED: until somebody is asked about it; else 0 */
	uint32_t checks;    /* how often somebody was asked, or would have been, in this life of the broker */
	uint32_t check_max; /* behind so many it is aborted */
	char name[256];     /* "" if none */
	char identity[256]; /* whose session has it, as in access.h; "": nobody's, it is prepared, or its connection is lost */
};

/**
 * thmq_txn_list() - the transactions of a broker that are not over, oldest first
 * @ret_infos: out, @max elements, each with its size field set by the caller in the first one
 * With copies those that who leads knows: one that is open is known nowhere else.
 * Return: the number there are (perhaps more than @max: the first @max are filled); -EACCES the broker's rules do not allow to administer it;
 * -ENOTSUP an older broker; -EINVAL; -ETIMEDOUT; -EDEADLK.
 * Threads: the session's; blocks until the answer comes.
 * Source: doc/transactions.md
 */
THMQ_API int thmq_txn_list(struct thmq_session *session, struct thmq_txn_info *ret_infos, uint32_t max);

/**
 * thmq_txn_force() - end a transaction of anybody, which holds up its partitions
 * @id: as of thmq_txn_list()  @decision: enum thmq_txn_decision; one that is open can only be aborted
 * Its session, if it lives, is told -ECANCELED when it wants to commit it.
 * Return: 0 it is so; if it was prepared, durably; -ENOENT there is none of this number (it may be aborted already); -EALREADY it is committed; -ECANCELED it is
 * aborted; -EINVAL it is open, and was to be committed; -EACCES the broker's rules do not allow to administer it; -THMQ_EFAILED it is in doubt;
 * -ENOSPC; -ETIMEDOUT, -ECONNRESET not known: call it again; -EDEADLK.
 * Threads: the session's; blocks.
 * Source: doc/transactions.md
 */
THMQ_API int thmq_txn_force(struct thmq_session *session, uint64_t id, uint32_t decision, uint64_t timeout_ns);

/* ------------------------------------------------------------------- events */

enum thmq_event_type {
	THMQ_EVENT_SETTLED =
		1, /* a message reached its durability (producers with THMQ_PRODUCER_REPORT) */
	THMQ_EVENT_FAILED =
		2, /* a message was refused, of this sequence, in this partition; error says why; it is certainly not stored. But with error
		      -THMQ_EFAILED the device failed under it: it may be stored or not */
	THMQ_EVENT_LOST =
		3, /* messages whose ack said less than durable are gone (error 0) or, since their shard failed, may be
		      (-THMQ_EFAILED; another error: its broker died, or the connection was lost, and the offset is not known:
		      UINT64_MAX): doc/durability.md. A producer's: count of its own from offset on, the first one
		      being sequence, acked at durability or better. A consumer's: all from offset to offset + count, or, with count 0, an
		      unknown number from offset on */
	THMQ_EVENT_ASSIGNED = 4, /* the consumer now has this partition, from offset on */
	THMQ_EVENT_REVOKED =
		5, /* the consumer has it no more; error: 0, or -THMQ_EFENCED after a time-out */
	THMQ_EVENT_STALLED = 6,     /* delivery stopped: the app holds the whole prefetch */
	THMQ_EVENT_OFFSETRANGE =
		7, /* the next offset was dropped; delivery goes on at offset, count offsets further */
	THMQ_EVENT_ERROR = 8,   /* a shard failed, messages cannot be read (offset: the first), …: error and partition */
	THMQ_EVENT_CLOSED = 9,  /* the broker closed: the session is dead */
	THMQ_EVENT_DROPPED = 10, /* count events were dropped because nobody took them */
	THMQ_EVENT_DISCONNECTED = 11, /* a connection is lost, and tried to be made again; error: why. THMQ_EVENT_RECONNECTED or
					 _CLOSED follows */
	THMQ_EVENT_RECONNECTED = 12, /* all is as before: what was not settled has been sent again. error -THMQ_ENOQUORUM: no majority of
					the copies is there, what is committed can be read, and nothing stored: doc/copies.md */
	THMQ_EVENT_DEAD_LETTER =
		13, /* a message of a shared group, at offset, was handed out deliver_max times, or rejected, and is not handed out any
		      more; it is in dead_topic, if there is one. count: how often */
	THMQ_EVENT_WEAKER = 21, /* a producer's messages settled with less than was asked for, durability, since a copy is away
				   (-ETIMEDOUT): count of them in partition, the first being sequence. Not of a producer that has reports:
				   those say it. doc/copies.md */
	THMQ_EVENT_LIMITED = 14, /* a limit of the topic or of this client holds up what the producer sends, or the consumer gets; count: for so many
				    ns. Told once a second at most; error: -EAGAIN */
	THMQ_EVENT_TXN_CHECK =
		24, /* a transaction of a name that this session watches is prepared, and nobody has decided about it: sequence is its id; count: how
		       often that was asked, this time included. thmq_txn_decide() */
	THMQ_EVENT_REQUEST_EXPIRED =
		20 /* a request, whose number is sequence, was not answered in time; cookie: its own. error: -ETIMEDOUT; -ECONNRESET its
		      answer was there, not taken, and is gone with the broker that held it */
};

struct thmq_event {
	uint32_t type;                  /* enum thmq_event_type */
	int32_t error;                  /* 0 or negative: thmq_strerror() says it, thmq_errmsg() is not about events */
	struct thmq_producer *producer; /* or NULL */
	struct thmq_consumer *consumer; /* or NULL */
	void *cookie;                   /* of the producer or consumer */
	uint64_t sequence;
	uint64_t offset;
	uint64_t count;
	uint32_t partition;
	uint32_t durability; /* what is proven: enum thmq_durability */
	uint64_t reserved[2];
};

/**
 * thmq_events() - take what happened on this session
 * @ret_events: out, room for @max
 * Return: how many, 0 for none; -EINVAL. A dead session still hands out its last events. Never blocks.
 */
THMQ_API int thmq_events(struct thmq_session *session, struct thmq_event *ret_events, uint32_t max);

#ifdef __cplusplus
}
#endif
#endif
