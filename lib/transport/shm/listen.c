/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.c - a unix socket that listens at a path or name: its mode, and what to do where a file is there already. The socket of a
 * broker that died is left behind, and is taken away by the next one; one that somebody listens at is not. Knows no connection.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shm.h"

#define BACKLOG 512
#define LOCK_ROUNDS 50
#define LOCK_NAP_NS 10000000

static int say(int rc, const char *url)
{
	switch (rc) {
	case 0:
		return 0;
	case -EADDRINUSE:
		return thmqi_fail(rc, "listen on %s: somebody else listens there", url);
	case -EEXIST:
		return thmqi_fail(-EADDRINUSE, "listen on %s: there is a file that is no socket",
				  url);
	case -EACCES:
	case -EPERM:
		return thmqi_fail(-EACCES, "listen on %s: no permission to make a socket there",
				  url);
	case -ENOENT:
		return thmqi_fail(rc, "listen on %s: its directory does not exist", url);
	default:
		return thmqi_fail(rc, "listen on %s: %s", url, thmq_strerror(rc));
	}
}

/*
 * Does somebody listen there? A socket file without a listener refuses. Of a process that was killed the kernel may not have closed all yet
 * (what a ring of its watched goes a little later): who called listen() is told by the connection.
 */
static bool is_alive(const struct sockaddr_un *address, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct ucred who = {0};
	socklen_t who_len = sizeof(who);
	bool alive = fd < 0 || connect(fd, (const struct sockaddr *)address, len) == 0 ||
		     errno != ECONNREFUSED;

	if (alive && fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &who_len) == 0)
		alive = !thmqi_shm_is_dead(who.pid);
	if (fd >= 0)
		close(fd);
	return alive;
}

/* Who looks whether a socket is dead, and takes it away, must be alone: the directory's lock says so. -1: not to be had. */
static int lock_directory(const struct shm_place *place)
{
	const struct timespec nap = {.tv_nsec = LOCK_NAP_NS};
	char dir[sizeof(place->path) + 2], *slash;
	int fd, i;

	snprintf(dir, sizeof(dir), "%s", place->path);
	slash = strrchr(dir, '/');
	if (slash)
		slash[1] = 0;
	else
		strcpy(dir, ".");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (i = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
		if (i == LOCK_ROUNDS) {
			close(fd);
			return -1;
		}
		nanosleep(&nap, NULL);
	}
	return fd;
}

/* 0: it was a socket of nobody's, and is gone. */
static int take_away_stale(const struct shm_place *place, const struct sockaddr_un *address,
			   socklen_t len)
{
	struct stat st;

	if (lstat(place->path, &st) != 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	if (is_alive(address, len))
		return -EADDRINUSE;
	return unlink(place->path) == 0 || errno == ENOENT ? 0 : -errno;
}

static int bind_name(struct shm_listening *l, const struct sockaddr_un *address, socklen_t len)
{
	return bind(l->fd, (const struct sockaddr *)address, len) == 0 ? 0 : -errno;
}

/* A name without a file goes with its socket, and that with the ring that watched it: a little after whoever closed it, or died. */
static int bind_free_name(struct shm_listening *l, const struct sockaddr_un *address, socklen_t len)
{
	const struct timespec nap = {.tv_nsec = LOCK_NAP_NS};
	int rc = bind_name(l, address, len), i;

	for (i = 0; rc == -EADDRINUSE && i < LOCK_ROUNDS && !is_alive(address, len); i++) {
		nanosleep(&nap, NULL);
		rc = bind_name(l, address, len);
	}
	return rc;
}

static int bind_path(struct shm_listening *l, const struct sockaddr_un *address, socklen_t len)
{
	int lock = lock_directory(&l->place), rc;
	struct stat st;

	/* the file has this mode from its first moment on, less the umask */
	rc = fchmod(l->fd, l->place.mode) == 0 ? 0 : -errno;
	if (!rc)
		rc = bind_name(l, address, len);
	if (rc == -EADDRINUSE && lock >= 0) {
		rc = take_away_stale(&l->place, address, len);
		if (!rc)
			rc = bind_name(l, address, len);
	}
	if (!rc && (chmod(l->place.path, l->place.mode) != 0 || lstat(l->place.path, &st) != 0)) {
		rc = -errno;
		unlink(l->place.path);
	} else if (!rc) {
		l->bound = true;
		l->device = st.st_dev;
		l->inode = st.st_ino;
		/* before others may look whether it is alive */
		rc = listen(l->fd, BACKLOG) == 0 ? 0 : -errno;
	}
	if (lock >= 0)
		close(lock);
	return rc;
}

int thmqi_shm_listening_open(struct shm_listening *l, const char *url)
{
	struct sockaddr_un address;
	socklen_t len = 0;
	int rc, dir_fd = -1;

	memset(l, 0, sizeof(*l));
	l->fd = -1;
	rc = thmqi_shm_parse(url, &l->place);
	if (rc)
		return rc;
	l->is_name = l->place.is_name;
	snprintf(l->url, sizeof(l->url), "%s", url);
	rc = thmqi_shm_address(&l->place, &address, &len, &dir_fd);
	if (!rc) {
		l->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		rc = l->fd < 0 ? -errno : 0;
	}
	if (!rc && l->is_name) {
		rc = bind_free_name(l, &address, len);
		if (!rc && listen(l->fd, BACKLOG) != 0)
			rc = -errno;
	} else if (!rc) {
		rc = bind_path(l, &address, len);
	}
	if (dir_fd >= 0)
		close(dir_fd);
	if (rc)
		thmqi_shm_listening_close(l);
	return say(rc, url);
}

void thmqi_shm_listening_close(struct shm_listening *l)
{
	struct stat st;

	/* first the file: who finds it no more may make his own, and it must not be that one that goes */
	if (l->bound && lstat(l->place.path, &st) == 0 && st.st_dev == l->device &&
	    st.st_ino == l->inode)
		unlink(l->place.path);
	if (l->fd >= 0) {
		shutdown(l->fd, SHUT_RDWR); /* nobody is let in from now on, whoever else still has the socket */
		close(l->fd);
	}
	l->fd = -1;
	l->bound = false;
}
