/* SPDX-License-Identifier: Apache-2.0 */
/* groups.c - the public face of groups as those see them who administer them: checks, then calls down. */
#include "api/api.h"
#include "client/client.h"

static int check(const struct thmq_session *session, const char *topic, const char *group)
{
	int rc;

	if (!thmqi_api_is_session(session))
		return thmqi_api_not_open("session");
	rc = thmqi_api_name(topic, THMQ_TOPIC_NAME_MAX, "topic");
	return rc || !group ? rc : thmqi_api_name(group, THMQ_GROUP_NAME_MAX, "group");
}

static int check_group(const struct thmq_session *session, const char *topic, const char *group)
{
	return group ? check(session, topic, group) : thmqi_fail(-EINVAL, "group: the name is empty");
}

static int no_size(const char *what)
{
	return thmqi_fail(-EINVAL, "%s: set the size field of the first element", what);
}

int thmq_group_list(struct thmq_session *session, const char *topic, struct thmq_group_info *ret_infos, uint32_t max)
{
	int rc = check(session, topic, NULL);

	if (!rc && max && (!ret_infos || thmqi_size_is_wrong(ret_infos[0].size)))
		return no_size("list groups");
	return rc ? rc : thmqi_client_group_list(session, topic, ret_infos, max);
}

int thmq_group_describe(struct thmq_session *session, const char *topic, const char *group, struct thmq_group_info *ret_info)
{
	int rc = check_group(session, topic, group);

	if (!rc && (!ret_info || thmqi_size_is_wrong(ret_info->size)))
		return no_size("describe a group");
	return rc ? rc : thmqi_client_group_describe(session, topic, group, ret_info);
}

int thmq_group_members(struct thmq_session *session, const char *topic, const char *group, struct thmq_group_member *ret_members,
		       uint32_t max)
{
	int rc = check_group(session, topic, group);

	if (!rc && max && (!ret_members || thmqi_size_is_wrong(ret_members[0].size)))
		return no_size("list members");
	return rc ? rc : thmqi_client_group_members(session, topic, group, ret_members, max);
}

int thmq_group_owners(struct thmq_session *session, const char *topic, const char *group, uint32_t *ret_members, uint32_t max)
{
	int rc = check_group(session, topic, group);

	if (!rc && max && !ret_members)
		return thmqi_fail(-EINVAL, "list owners: no place for the result");
	return rc ? rc : thmqi_client_group_owners(session, topic, group, ret_members, max);
}

int thmq_group_reset(struct thmq_session *session, const char *topic, const char *group, uint32_t partition, uint32_t start,
		     uint64_t value, uint32_t flags)
{
	int rc = check_group(session, topic, group);

	if (!rc && (start < THMQ_START_BEGIN || start > THMQ_START_TIME))
		return thmqi_fail(-EINVAL, "reset a group: start is BEGIN, END, OFFSET or TIME");
	if (!rc && (flags & ~THMQ_GROUP_FORCE))
		return thmqi_fail(-EINVAL, "reset a group: unknown flags %#x", flags);
	return rc ? rc : thmqi_client_group_reset(session, topic, group, partition, start, value, flags);
}

int thmq_group_delete(struct thmq_session *session, const char *topic, const char *group, uint32_t flags)
{
	int rc = check_group(session, topic, group);

	if (!rc && (flags & ~THMQ_GROUP_FORCE))
		return thmqi_fail(-EINVAL, "delete a group: unknown flags %#x", flags);
	return rc ? rc : thmqi_client_group_delete(session, topic, group, flags);
}
