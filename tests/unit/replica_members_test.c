/* SPDX-License-Identifier: Apache-2.0 */
/* Memberships as bytes: what was written is read back, and what lies is refused. */
#include <stdio.h>

#include <criterion/criterion.h>

#include "members.h"

static struct thmqi_membership some(uint32_t count, uint32_t before)
{
	struct thmqi_membership m = {
		.members.count = count, .previous_index = before ? 7 : 0, .previous.count = before};

	for (uint32_t i = 0; i < count; i++) {
		m.members.list[i].id = 100 + i;
		m.members.list[i].role = i ? i % 3 : THMQI_MEMBER_VOTER;
		snprintf(m.members.list[i].address, THMQI_ADDRESS_MAX, "tcp://host-%u:%u", i,
			 7000 + i);
	}
	for (uint32_t i = 0; i < before; i++) {
		m.previous.list[i].id = 200 + i;
		m.previous.list[i].role = THMQI_MEMBER_VOTER;
		snprintf(m.previous.list[i].address, THMQI_ADDRESS_MAX, "%u", i);
	}
	return m;
}

Test(replica_members, are_read_back_as_they_were_written)
{
	uint8_t bytes[THMQI_MEMBERSHIP_BYTES_MAX];
	struct thmqi_membership back;

	for (uint32_t count = 1; count <= THMQI_MEMBERS_MAX; count++)
		for (uint32_t before = 0; before <= THMQI_MEMBERS_MAX; before += 5) {
			struct thmqi_membership m = some(count, before);
			uint32_t len = thmqi_membership_encode(&m, bytes);

			cr_assert_leq(len, sizeof(bytes));
			cr_assert_eq(thmqi_membership_decode(bytes, len, &back), 0);
			cr_assert_eq(memcmp(&back, &m, sizeof(m)), 0);
		}
}

Test(replica_members, of_the_greatest_length_fit)
{
	uint8_t bytes[THMQI_MEMBERSHIP_BYTES_MAX];
	struct thmqi_membership m = some(THMQI_MEMBERS_MAX, THMQI_MEMBERS_MAX), back;

	for (uint32_t i = 0; i < THMQI_MEMBERS_MAX; i++) {
		memset(m.members.list[i].address, 'a' + (int)i, THMQI_ADDRESS_MAX - 1);
		memset(m.previous.list[i].address, 'a' + (int)i, THMQI_ADDRESS_MAX - 1);
	}
	uint32_t len = thmqi_membership_encode(&m, bytes);

	cr_assert_leq(len, sizeof(bytes));
	cr_assert_eq(thmqi_membership_decode(bytes, len, &back), 0);
	cr_assert_eq(memcmp(&back, &m, sizeof(m)), 0);
}

Test(replica_members, of_a_log_that_has_one_copy_are_its_node)
{
	const uint64_t node = 1;
	struct thmqi_membership m;

	cr_assert_eq(thmqi_membership_decode(&node, sizeof(node), &m), 0);
	cr_assert_eq(m.members.count, 1);
	cr_assert_eq(m.members.list[0].id, 1);
	cr_assert_eq(m.members.list[0].role, THMQI_MEMBER_VOTER);
}

Test(replica_members, that_end_early_are_refused)
{
	uint8_t bytes[THMQI_MEMBERSHIP_BYTES_MAX];
	struct thmqi_membership m = some(4, 3), back;
	uint32_t len = thmqi_membership_encode(&m, bytes);

	for (uint32_t i = 0; i < len; i++)
		cr_assert_neq(i == 8 ? 1 : thmqi_membership_decode(bytes, i, &back), 0);
	cr_assert_neq(
		thmqi_membership_decode(bytes, len + 8 <= sizeof(bytes) ? len + 8 : len, &back), 0);
}

/* Each byte changed, by each bit: it is refused, or is something that could be. */
Test(replica_members, with_any_bit_changed_do_no_harm)
{
	uint8_t *bytes = malloc(THMQI_MEMBERSHIP_BYTES_MAX), *exact;
	struct thmqi_membership m = some(3, 2), back;
	uint32_t len = thmqi_membership_encode(&m, bytes);

	for (uint32_t i = 0; i < len * 8; i++) {
		exact = malloc(len); /* so that a read beyond it is found */
		memcpy(exact, bytes, len);
		exact[i / 8] ^= (uint8_t)(1u << (i % 8));
		if (thmqi_membership_decode(exact, len, &back) == 0)
			cr_assert_eq(thmqi_members_check(&back.members), 0);
		free(exact);
	}
	free(bytes);
}

Test(replica_members, must_be_different_and_one_must_vote)
{
	struct thmqi_members m = some(3, 0).members;

	cr_assert_eq(thmqi_members_check(&m), 0);
	m.list[1].id = m.list[0].id;
	cr_assert_eq(thmqi_members_check(&m), -EINVAL);
	m = some(3, 0).members;
	strcpy(m.list[2].address, m.list[0].address);
	cr_assert_eq(thmqi_members_check(&m), -EINVAL);
	m = some(3, 0).members;
	m.list[1].id = 0;
	cr_assert_eq(thmqi_members_check(&m), -EINVAL);
	m = some(3, 0).members;
	m.list[1].address[0] = 0;
	cr_assert_eq(thmqi_members_check(&m), -EINVAL);
	m = some(3, 0).members;
	for (uint32_t i = 0; i < 3; i++)
		m.list[i].role = THMQI_MEMBER_STANDBY;
	cr_assert_eq(thmqi_members_check(&m), -EINVAL);
	m.count = 0;
	cr_assert_eq(thmqi_members_check(&m), -EINVAL);
}
