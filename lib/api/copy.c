/* SPDX-License-Identifier: Apache-2.0 */
/* copy.c - the public face of copies of an open broker: it is kept from closing under a copy's feet. */
#include "api/api.h"
#include "broker/broker.h"

int thmq_broker_copy(struct thmq_broker *broker, const char *dest, uint64_t timeout_ns)
{
	struct thmqi_api *api;
	struct thmq_core *mine;
	struct thmq_env *env;
	bool open;
	int rc;

	if (!thmqi_api_is_broker(broker))
		return thmqi_api_not_open("broker");
	if (!dest || !*dest || strlen(dest) > 3800)
		return thmqi_fail(-EINVAL, "copy: name a directory for it");
	env = thmqi_broker_env(broker);
	mine = thmqi_core_mine(env);
	if (mine && mine->in_poll)
		return thmqi_fail(-EDEADLK, "a broker cannot be copied from a core's callback");
	api = thmqi_api_of(env);
	pthread_mutex_lock(&api->lock);
	open = thmqi_handle_is(broker, THMQI_HANDLE_BROKER);
	if (open)
		thmqi_broker_copy_hold(broker);
	pthread_mutex_unlock(&api->lock);
	if (!open)
		return thmqi_api_not_open("broker");
	rc = thmqi_broker_copy(broker, dest, timeout_ns);
	thmqi_broker_copy_let_go(broker);
	return rc;
}
