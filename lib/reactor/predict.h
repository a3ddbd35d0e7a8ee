/* SPDX-License-Identifier: Apache-2.0 */
/*
 * predict.h - THMQ_POLICY_PREDICTIVE's forecaster of one core: how many iterations did something, by tenths of a second, goes in; what
 * the next tenth will bring comes out. The fits are made by a thread of the environment's, one for all cores, where the library may make
 * threads; otherwise by the core, one small piece before it falls asleep, and seldom. Either way the core never waits for an answer.
 */
#ifndef THMQI_REACTOR_PREDICT_H
#define THMQI_REACTOR_PREDICT_H

#include <thundermq/reactor.h>

struct loop;
struct predict;

/* All cores of an environment that wants it; loops are open and do not run yet. 0 or an error with a text. */
int thmqi_predict_open(struct thmq_env *env);
/* Their threads have ended. */
void thmqi_predict_close(struct thmq_env *env);

/* By the core, now and then: count, hand over, and tell the policy what is expected. */
void thmqi_predict_tick(struct loop *l, uint64_t now);
/* By the core, about to sleep: a piece of work, where there is no thread for it. */
void thmqi_predict_slice(struct loop *l, uint64_t now);
void thmqi_predict_stats(const struct predict *p, struct thmq_core_stats *ret);

#endif
