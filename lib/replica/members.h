/* SPDX-License-Identifier: Apache-2.0 */
/*
 * members.h - who belongs to a group, and as what, as a batch of type change says it: the membership that it brings and the one
 * before, so that a copy whose log begins behind that one, or that must take a change back, knows both. Pure functions on bytes.
 */
#ifndef THMQI_REPLICA_MEMBERS_H
#define THMQI_REPLICA_MEMBERS_H

#include "base/base.h"
#include "replica/group.h"

/* As the newest change in a log says it. */
struct thmqi_membership {
	uint64_t index; /* of the batch that brought `members`; 0: none is known */
	struct thmqi_members members;
	uint64_t previous_index; /* 0: there was none before */
	struct thmqi_members previous;
};

#define THMQI_MEMBERSHIP_BYTES_MAX (16u + 2u * THMQI_MEMBERS_MAX * (16u + THMQI_ADDRESS_MAX + 8u))

/* Return: bytes, up to THMQI_MEMBERSHIP_BYTES_MAX, which @ret has room for. */
uint32_t thmqi_membership_encode(const struct thmqi_membership *m, void *ret);
/* All but the index. 0; -THMQ_ECORRUPT; -THMQ_EVERSION. The first batch of a log that has one copy is understood too. */
int thmqi_membership_decode(const void *data, uint32_t len, struct thmqi_membership *ret);
/* 0; -EINVAL none or too many, a number or address twice, or no voter. */
int thmqi_members_check(const struct thmqi_members *m);
uint32_t thmqi_members_voters(const struct thmqi_members *m);

#endif
