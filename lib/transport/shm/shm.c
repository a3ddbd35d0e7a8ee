/* SPDX-License-Identifier: Apache-2.0 */
/* shm.c - shm:// as a medium: what the registry calls. */
#include "shm.h"

const struct thmqi_medium thmqi_medium_shm = {
	.scheme = "shm",
	.check = thmqi_shm_check,
	.listen = thmqi_shm_listen,
	.unlisten = thmqi_shm_unlisten,
	.url_of = thmqi_shm_url_of,
	.connect = thmqi_shm_connect,
};
