/* SPDX-License-Identifier: Apache-2.0 */
/* hello.cpp - hello.c in C++17: publish one message durably, read it back. What fails throws, and all is closed at the end. */
#include <chrono>
#include <cstdio>
#include <thundermq/thundermq.hpp>

using namespace std::chrono_literals;

static void hello()
{
	thmq::environment env;
	thmq::broker_options at;

	at.data_dir = "hello-cpp-data";
	thmq::broker broker(env, at);
	thmq::session session(env, "inproc://");

	thmq::topic_options kind;
	kind.flags = THMQ_TOPIC_IF_ABSENT;
	session.create_topic("greetings", kind);

	thmq::producer producer(session, "greetings");
	thmq::consumer consumer(session, "greetings", "readers");

	producer.send("hello");
	producer.flush(); /* it is on the medium */

	for (bool got = false; !got; session.wait(1s))
		for (auto m : consumer.fetch()) { /* views: nothing is copied */
			std::printf("%.*s at offset %llu\n", static_cast<int>(m.data().size()), m.data().data(),
				    static_cast<unsigned long long>(m.offset()));
			consumer.ack(m); /* the group goes on behind it next time */
			got = true;
		}
	session.close(); /* would be closed by itself, but so it tells if an acknowledgement could not be stored */
}

int main()
{
	try {
		hello();
		return 0;
	} catch (const thmq::error &e) {
		return std::fprintf(stderr, "%s\n", e.what()), 1;
	}
}
