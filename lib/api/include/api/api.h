/* SPDX-License-Identifier: Apache-2.0 */
/* api.h - what hangs on an environment for the public calls; and how a simulator opens one. */
#ifndef THMQI_API_H
#define THMQI_API_H

#include <pthread.h>

#include "base/handle.h"
#include "reactor/process.h"
#include "reactor/reactor.h"
#include "transport/transport.h"

/* An open broker or session of an environment, so that closing the environment finds it. */
struct thmqi_open {
	struct thmqi_list link;
	void *handle;
};

struct thmqi_api {
	struct thmqi_transport *transport;
	struct thmqi_graveyard graveyard;
	pthread_mutex_t lock; /* of the lists; and no broker begins to close while it is held */
	struct thmqi_list sessions, brokers; /* struct thmqi_open */
};

struct thmqi_api *thmqi_api_of(struct thmq_env *env);

/* Open, and this process's own. */
static inline bool thmqi_api_is_env(const struct thmq_env *env)
{
	return thmqi_handle_is(env, THMQI_HANDLE_ENV) && thmqi_env_is_here(env);
}

/* The same of what hangs on it. The environment is looked at only where the handle is open. */
#define THMQI_API_IS(handle, kind, env_of) (thmqi_handle_is(handle, kind) && thmqi_env_is_here(env_of(handle)))
#define thmqi_api_is_broker(b) THMQI_API_IS(b, THMQI_HANDLE_BROKER, thmqi_broker_env)
#define thmqi_api_is_session(s) THMQI_API_IS(s, THMQI_HANDLE_SESSION, thmqi_client_env)

/* -EINVAL, with a text. @what: "session", … */
int thmqi_api_not_open(const char *what);

int thmqi_api_note(struct thmqi_api *api, struct thmqi_list *list, void *handle);
void thmqi_api_forget(struct thmqi_api *api, struct thmqi_list *list, void *handle);

/* Is it a name as topics and groups have, of at most so many bytes? 0, or an error with a text. */
int thmqi_api_name(const char *name, uint32_t max, const char *what);

/* thmq_env_open() in a world of its own: virtual time, a simulated disk. */
/* Of options by themselves. 0 or an error with a text. */
int thmqi_api_env_check(const struct thmq_env_opts *o);
int thmqi_api_env_open(const struct thmq_env_opts *opts, const struct thmqi_world *world, struct thmq_env **ret_env);

struct thmqi_carrier;
/* thmq_broker_open(), with a way of its own between copies; NULL: as their addresses say. */
int thmqi_api_broker_open(struct thmq_env *env, const struct thmq_broker_opts *opts, const struct thmqi_carrier *carrier,
			  struct thmq_broker **ret_broker);

#endif
