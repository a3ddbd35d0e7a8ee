/* SPDX-License-Identifier: Apache-2.0 */
/* place.c - the public face of placement: checks, then calls down; structs of another size than ours. */
#include "api/api.h"

_Static_assert(sizeof(struct thmq_place) == 32 && sizeof(struct thmq_machine) == 64,
	       "public layout");

#define PLACES_MAX 65536u

/* The caller's struct keeps its size, and gets what it has room for. */
static void hand_out(void *to, const void *from, uint32_t size_now)
{
	uint32_t size;

	memcpy(&size, to, sizeof(size));
	memset(to, 0, size);
	memcpy(to, from, THMQI_MIN(size, size_now));
	memcpy(to, &size, sizeof(size));
}

int thmq_env_plan(const struct thmq_env_opts *opts, struct thmq_place *places, uint32_t count,
		  struct thmq_machine *ret_machine)
{
	struct thmq_machine machine = {.size = sizeof(machine)};
	struct thmq_place *all = NULL;
	struct thmq_env_opts o;
	uint32_t size, i;
	int rc = thmqi_opts_copy(&o, sizeof(o), opts);

	if (rc)
		return thmqi_fail(rc, "plan: options: %s", thmqi_opts_why(rc));
	rc = thmqi_api_env_check(&o);
	if (rc)
		return rc;
	if ((places && count && thmqi_size_is_wrong(places->size)) || (ret_machine && thmqi_size_is_wrong(ret_machine->size)))
		return thmqi_fail(-EINVAL, "plan: set the size field first");
	if (count > PLACES_MAX)
		return thmqi_fail(-EINVAL, "plan: at most %u places", PLACES_MAX);
	size = places && count ? places->size : 0;
	if (size) {
		all = calloc(count, sizeof(*all));
		if (!all)
			return thmqi_fail(-ENOMEM, "no memory to place cores");
	}
	rc = thmqi_env_plan(&o, all, size ? count : 0, &machine);
	for (i = 0; !rc && size && i < count; i++) {
		void *to = (uint8_t *)places + (size_t)i * size;

		memcpy(to, &size, sizeof(size));
		hand_out(to, &all[i], sizeof(all[i]));
	}
	free(all);
	if (!rc && ret_machine)
		hand_out(ret_machine, &machine, sizeof(machine));
	return rc;
}

int thmq_env_place(struct thmq_env *env, uint32_t core_index, struct thmq_place *ret_place)
{
	struct thmq_place place;
	int rc;

	if (!thmqi_api_is_env(env))
		return thmqi_api_not_open("environment");
	if (!ret_place || thmqi_size_is_wrong(ret_place->size))
		return thmqi_fail(-EINVAL, "place: set the size field first");
	rc = thmqi_env_place(env, core_index, &place);
	if (rc)
		return thmqi_fail(rc, "there is no core %u: the environment has %u", core_index,
				  thmqi_env_core_count(env));
	hand_out(ret_place, &place, sizeof(place));
	return 0;
}
