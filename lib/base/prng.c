/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prng.c - xoshiro256** (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2018), seeded by
 * splitmix64 (Steele, Lea, Flood, 2014). For simulation and back-off, never for secrets.
 */
#include <sys/random.h>

#include "base/base.h"

static uint64_t splitmix(uint64_t *x)
{
	uint64_t z = (*x += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void thmqi_prng_seed(struct thmqi_prng *p, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		p->s[i] = splitmix(&seed);
}

static uint64_t rotate(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

uint64_t thmqi_prng_next(struct thmqi_prng *p)
{
	uint64_t *s = p->s, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

/* The high half of a 128-bit product: no division, a bias below 2^-32 for bounds below 2^32. */
uint64_t thmqi_prng_below(struct thmqi_prng *p, uint64_t bound)
{
	return bound ? (uint64_t)(((unsigned __int128)thmqi_prng_next(p) * bound) >> 64) : 0;
}

int thmqi_random_bytes(void *buf, size_t len)
{
	uint8_t *at = buf;
	ssize_t n;

	while (len) {
		n = getrandom(at, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}
