/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpp_test.cpp - thundermq.hpp: what it promises beyond the calls that it makes: errors as exceptions, full as an empty optional, ends in any
 * order. It must not know how the library is made: it has the public headers only.
 */
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <thundermq/reactor.h>
#include <thundermq/thundermq.hpp>
#include <type_traits>

using namespace std::chrono_literals;

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);            \
			std::exit(1);                                                              \
		}                                                                                  \
	} while (0)

/* The number of what it throws; 0: nothing. */
template <class F> static int thrown(F &&f)
{
	try {
		f();
	} catch (const thmq::error &e) {
		CHECK(e.what()[0]);
		return e.code().value();
	}
	return 0;
}

struct place {
	thmq::environment env;
	thmq::broker broker;
	thmq::session session;

	explicit place(const thmq::session_options &so = {}) : broker(env), session(env, "inproc://", so)
	{
		thmq::topic_options to;

		to.flags = THMQ_TOPIC_VOLATILE;
		session.create_topic("t", to);
	}
};

static void errors_say_which()
{
	place p;

	CHECK(thrown([&] { p.session.create_topic("t"); }) == EEXIST);
	CHECK(thrown([&] { p.session.delete_topic("absent"); }) == THMQ_ENOTOPIC);
	CHECK(thrown([&] { thmq::session(p.env, "nothing://here"); }) == EPROTONOSUPPORT);
	try {
		p.session.create_topic("bad name");
		CHECK(!"refused");
	} catch (const thmq::error &e) {
		CHECK(e.code() == std::errc::invalid_argument); /* errno's are errno's in the standard's words too */
		CHECK(e.error_class() == THMQ_CLASS_CALLER);
	}
	try {
		thmq::consumer(p.session, "absent", nullptr);
		CHECK(!"refused");
	} catch (const std::system_error &e) {
		CHECK(e.code().category() == thmq::category());
		const std::string text = e.what(), meaning = thmq_strerror(THMQ_ENOTOPIC);

		CHECK(text.find("absent") != std::string::npos);
		CHECK(text.find(meaning) != std::string::npos && text.find(meaning) == text.rfind(meaning)); /* told, and once */
	}
}

static void messages_come_as_they_went()
{
	place p;
	thmq::producer producer(p.session, "t");
	thmq::consumer consumer(p.session, "t", "g");
	thmq_header region = {"region", "north", 5, THMQ_HEADER_TEXT};
	thmq::message_options mo;
	int got = 0;

	mo.tag = "red";
	mo.headers = &region;
	mo.header_count = 1;
	mo.with_key("k1");
	CHECK(producer.send("first", mo) == 1);
	auto claim = producer.try_claim(6);
	CHECK(claim && claim->size() == 6);
	std::memcpy(claim->data(), "second", 6);
	CHECK(claim->try_commit() == 2u);
	CHECK(thrown([&] { claim->try_commit(); }) == ESHUTDOWN); /* spent */
	{
		auto given_back = producer.try_claim(100);
		CHECK(given_back);
	}
	CHECK(producer.send("") == 3);
	producer.flush();
	CHECK(producer.watermark() == 3);
	while (got < 3) {
		for (auto m : consumer.fetch<2>()) {
			if (got == 0) {
				int headers = 0;

				CHECK(m.data() == "first" && m.key() == "k1" && m.tag() == "red");
				CHECK(m.header("region") == "north" && !m.header("Region"));
				m.each_header([&](const thmq_header &h) { headers += h.type == THMQ_HEADER_TEXT; });
				CHECK(headers == 1);
				CHECK(std::chrono::system_clock::now() - m.time() < 1h);
			} else {
				CHECK(m.key().empty() && m.tag().empty() && !m.header("region"));
				CHECK(m.data() == (got == 1 ? "second" : ""));
			}
			CHECK(consumer.ack(m));
			got++;
		}
		p.session.wait(1s);
	}
	consumer.flush();
	CHECK(p.session.partition("t", 0, "g").lag == 0);
	CHECK(p.session.topics().size() == 1 && p.session.topic("t").group_count == 1);
	CHECK(p.broker.stats().messages_in == 3 && p.env.stats().core_count == 1);
	CHECK(!p.broker.listen_url());
}

static void messages_go_together()
{
	place p;
	thmq::producer producer(p.session, "t");
	thmq::consumer consumer(p.session, "t", nullptr);
	thmq_header region = {"region", "north", 5, THMQ_HEADER_TEXT};
	std::vector<thmq_batch_message> messages = {thmq::batch_message("first", "k1"), thmq::batch_message("")};
	int got = 0;

	messages[1].tag = "red";
	messages[1].headers = &region;
	messages[1].header_count = 1;
	CHECK(producer.send("before") == 1);
	CHECK(producer.try_send_batch(messages) == 2u);
	CHECK(producer.send_batch({thmq::batch_message("alone")}) == 3);
	producer.flush();
	while (got < 4) {
		for (auto m : consumer.fetch<2>()) {
			static const char *const wanted[] = {"before", "first", "", "alone"};

			CHECK(m.data() == wanted[got] && m.offset() == static_cast<uint64_t>(got));
			CHECK(m.key() == (got == 1 ? "k1" : "") && m.tag() == (got == 2 ? "red" : ""));
			CHECK(!m.header("region") == (got != 2));
			got++;
		}
		p.session.wait(1s);
	}
	CHECK(thrown([&] { producer.send_batch({}); }) == EINVAL);
	messages.assign(THMQ_BATCH_MAX + 1, thmq::batch_message("x"));
	CHECK(thrown([&] { producer.send_batch(messages); }) == EINVAL);
	messages.pop_back();
	CHECK(producer.send_batch(messages) == 4);
	/* which of these it was */
	const std::string key(THMQ_KEY_MAX + 1, 'k');

	try {
		producer.send_batch({thmq::batch_message("x"), thmq::batch_message("x", key)});
		CHECK(!"taken");
	} catch (const thmq::error &e) {
		CHECK(e.code().value() == EINVAL && strstr(e.what(), "key of message 1 has 4097 bytes"));
	}
	try {
		producer.send_batch({});
		CHECK(!"taken");
	} catch (const thmq::error &e) {
		CHECK(strstr(e.what(), "not 0"));
	}
	producer.flush();
}

static void full_is_an_empty_optional()
{
	thmq::session_options so;

	so.window_count = 16;
	place p(so);
	thmq::producer producer(p.session, "t");
	unsigned n = 0;

	while (producer.try_send("x") && n < 100)
		n++;
	CHECK(n >= 15 && n < 100);
	CHECK(!producer.try_claim(1));
	CHECK(!producer.try_send_batch({thmq::batch_message("x")}));
	CHECK(producer.send("waits") == n + 1); /* which drives the core, and then there is room */
	CHECK(thrown([&] { producer.try_claim(1u << 30); }) == EMSGSIZE);
}

/* A claim that nobody ends holds up all behind it; what else lies there untaken is no reason to go on for ever. */
static void who_waits_for_room_waits_so_long()
{
	thmq::session_options so;

	so.window_count = 16;
	place p(so);
	thmq::producer_options po;

	po.flags = THMQ_PRODUCER_REPORT;
	thmq::producer producer(p.session, "t", po);

	producer.send("told");
	producer.flush(); /* an event, which is not taken */
	auto held = producer.try_claim(1);

	CHECK(held);
	while (producer.try_claim(1).has_value() || producer.try_send("x"))
		;
	CHECK(thrown([&] { producer.send("x", {}, 50ms); }) == ETIMEDOUT);
	CHECK(thrown([&] { producer.send("x", {}, 0ms); }) == ETIMEDOUT);
	CHECK(p.session.next_event());
}

static void any_duration_is_one()
{
	using thmq::timespan;

	CHECK(timespan(std::chrono::hours::max()).count() == UINT64_MAX);
	CHECK(timespan(std::chrono::hours::min()).count() == 0);
	CHECK(timespan(thmq::forever).count() == UINT64_MAX);
	CHECK(timespan(std::chrono::duration<double>(1e300)).count() == UINT64_MAX);
	CHECK(timespan(std::chrono::duration<double>(1.5)).count() == 1500000000);
	CHECK(timespan(-1ns).count() == 0 && timespan(1ns).count() == 1);
	CHECK(timespan(24h * 365 * 292).count() == 24ull * 365 * 292 * 3600 * 1000000000);
}

static void batches_give_back()
{
	place p;
	thmq::producer producer(p.session, "t");
	thmq::consumer_options co;

	co.prefetch_count = 1;
	thmq::consumer consumer(p.session, "t", nullptr, co);
	for (int i = 0; i < 3; i++) {
		producer.send("x");
		producer.flush();
	}
	for (int got = 0; got < 3;) {
		{
			auto b = consumer.fetch<1>();
			got += static_cast<int>(b.size());
			if (!b.empty())
				CHECK(b[0].data() == "x");
		}
		p.session.wait(10ms);
	}
	CHECK(consumer.fetch().empty());
}

static void ends_in_any_order()
{
	auto p = std::make_unique<place>();
	auto producer = std::make_unique<thmq::producer>(p->session, "t");
	thmq::consumer consumer(p->session, "t", nullptr);
	auto claim = producer->try_claim(8);

	static_assert(!std::is_copy_constructible_v<thmq::session> && std::is_nothrow_move_constructible_v<thmq::session>);
	producer->send("left lying");
	producer->flush();
	p->session.wait(1s);
	auto batch = consumer.fetch();
	thmq::session moved = std::move(p->session);

	CHECK(thrown([&] { p->session.wait(0s); }) == ESHUTDOWN);
	moved.close();
	moved.close(); /* does nothing */
	CHECK(thrown([&] { producer->send("x"); }) == ESHUTDOWN); /* its session took it along */
	p->env.close();
	CHECK(thrown([&] { consumer.fetch(); }) == ESHUTDOWN);
	CHECK(thrown([&] { p->env.poll(); }) == ESHUTDOWN);
	producer.reset();
	p.reset();
	/* batch, consumer, claim go last, and touch nothing */
}

static_assert(!std::is_copy_constructible_v<thmq::environment> && !std::is_copy_assignable_v<thmq::environment>);
static_assert(std::is_nothrow_move_constructible_v<thmq::environment> && std::is_nothrow_move_assignable_v<thmq::environment>);

static void what_was_moved_from_is_closed()
{
	auto p = std::make_unique<place>();
	thmq::producer producer(p->session, "t");
	auto claim = producer.try_claim(8);

	thmq::environment env = std::move(p->env);
	CHECK(thrown([&] { p->env.raw(); }) == ESHUTDOWN);
	CHECK(thrown([&] { p->env.poll(); }) == ESHUTDOWN);
	CHECK(thrown([&] { thmq::session(p->env, "inproc://"); }) == ESHUTDOWN);
	p->env.close(); /* does nothing */
	thmq::claim other = std::move(*claim);
	CHECK(!claim->data() && claim->size() == 0 && other.size() == 8);
	CHECK(thrown([&] { claim->try_commit(); }) == ESHUTDOWN);
	CHECK(other.try_commit() && !other.data());
	p->env = std::move(env);
	CHECK(thrown([&] { env.raw(); }) == ESHUTDOWN);
	producer.flush();
	p->env = thmq::environment(); /* the first one is closed by that */
	CHECK(thrown([&] { producer.try_send("x"); }) == ESHUTDOWN);
	CHECK(thrown([&] { p->session.wait(0s); }) == ESHUTDOWN);
}

/* Whoever holds on to what was opened on it: the environment goes with its own object, on that one's thread. */
static void an_environment_ends_with_its_object()
{
	std::optional<thmq::session> left;
	{
		place p;
		left.emplace(std::move(p.session));
		CHECK(left->raw());
	}
	CHECK(thrown([&] { left->raw(); }) == ESHUTDOWN);
	std::thread([&] { left.reset(); }).join();
}

static void a_child_knows_that_its_session_is_gone()
{
	place p;
	auto session = std::make_unique<thmq::session>(p.env, "inproc://");
	thmq::producer producer(*session, "t");
	thmq::consumer consumer(*session, "t", nullptr);
	auto claim = producer.try_claim(8);

	session.reset();
	for (int i = 0; i < 100; i++) /* others may have its memory by now */
		session = std::make_unique<thmq::session>(p.env, "inproc://");
	CHECK(thrown([&] { producer.try_send("x"); }) == ESHUTDOWN);
	CHECK(thrown([&] { consumer.fetch(); }) == ESHUTDOWN);
	CHECK(thrown([&] { claim->try_commit(); }) == ESHUTDOWN);
	producer.close(); /* does nothing */
}

/* Within a poll nothing that waits can be done: what is to be closed then is still there behind it. */
static void a_close_that_cannot_be_done_now_keeps_the_handle()
{
	place p;
	struct {
		thmq_task task;
		place *p;
		int broker, env;
	} t = {{}, &p, 0, 0};

	t.task.run = [](thmq_core *, thmq_task *task) {
		auto *mine = reinterpret_cast<decltype(t) *>(task);

		mine->broker = thrown([&] { mine->p->broker.close(); });
		mine->env = thrown([&] { mine->p->env.close(); });
	};
	CHECK(thmq_core_post(thmq_env_core(p.env.raw(), 0), &t.task) == 0);
	for (int i = 0; i < 1000 && !t.env; i++)
		p.env.poll(1ms);
	CHECK(t.broker == EDEADLK && t.env == EDEADLK);
	CHECK(p.broker.stats().shard_count > 0);
	p.broker.close();
	CHECK(thrown([&] { p.broker.raw(); }) == ESHUTDOWN);
	p.env.close();
}

static void requests_are_answered()
{
	place p;
	thmq::producer producer(p.session, "t");
	thmq::consumer consumer(p.session, "t", nullptr);
	int mark = 0;
	auto number = producer.try_request("question", 10s, {}, &mark);

	CHECK(number && *number > 0);
	for (bool answered = false; !answered;) {
		for (auto m : consumer.fetch()) {
			CHECK(m.data() == "question" && m.header(THMQ_REPLY_ID));
			CHECK(consumer.encoding(m) == THMQ_ENCODING_NONE);
			CHECK(p.session.try_reply(m, "answer"));
			answered = true;
		}
		p.session.wait(1s);
	}
	for (;;) {
		if (auto r = p.session.next_response()) {
			thmq::response moved = std::move(*r);

			CHECK(moved.request() == *number && moved.cookie() == &mark && moved.message().data() == "answer");
			break;
		}
		p.session.wait(1s);
	}
	producer.send("no request");
	CHECK(thrown([&] { producer.call("nobody is there", 20ms); }) == ETIMEDOUT);
	p.session.wait(1s);
	for (auto m : consumer.fetch())
		if (m.data() == "no request")
			CHECK(thrown([&] { p.session.try_reply(m, "x"); }) == ENOENT);
}

static void groups_are_looked_after()
{
	place p;
	thmq::producer producer(p.session, "t");

	for (int i = 0; i < 20; i++) {
		std::string name = "g" + std::to_string(i);
		thmq::consumer c(p.session, "t", name.c_str());

		c.close();
	}
	CHECK(p.session.groups("t").size() == 20); /* more than there was room for at first */
	for (int i = 0; i < 3; i++)
		producer.send("x");
	producer.flush();
	thmq::consumer member(p.session, "t", "g7");
	while (p.session.group("t", "g7").reader_count == 0)
		p.session.wait(10ms);
	CHECK(p.session.group_members("t", "g7").size() == 1);
	CHECK(p.session.group_owners("t", "g7").size() == 1 && p.session.group_owners("t", "g7")[0] == 0);
	CHECK(thrown([&] { p.session.reset_group("t", "g7", THMQ_START_END); }) == EBUSY);
	member.close();
	CHECK(p.session.group("t", "g7").lag == 3);
	p.session.reset_group("t", "g7", THMQ_START_END);
	CHECK(p.session.group("t", "g7").lag == 0);
	p.session.delete_group("t", "g7");
	CHECK(thrown([&] { p.session.group("t", "g7"); }) == ENOENT);
}

static void a_loop_of_ones_own()
{
	place p;
	thmq::producer producer(p.session, "t");
	uint64_t sequence = producer.send("x");

	CHECK(p.env.fd() >= 0 && p.session.fd() >= 0);
	while (producer.watermark() < sequence)
		p.env.poll();
	while (!p.env.arm())
		while (p.env.poll() > 0)
			;
	while (auto e = p.session.next_event())
		CHECK(e->type);
}

/* What a reader of its own finds in a topic, up to where it ends. */
static std::string all_of(thmq::session &s, const char *topic)
{
	const uint64_t end = s.partition(topic, 0).end_offset;
	thmq::consumer c(s, topic, nullptr);
	std::string text;

	while (c.position(0) < end)
		for (auto m : c.fetch())
			text += m.data();
	return text;
}

static void transactions_count_all_or_not_at_all()
{
	const auto dir = std::filesystem::path("cpp-test-" + std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()));
	const std::string path = (dir / "data").string();
	thmq::broker_options bo;
	thmq::transaction_options named;
	uint64_t prepared;

	std::filesystem::create_directory(dir);
	bo.data_dir = path.c_str();
	named.name = "shop";
	{
		thmq::environment env;
		thmq::broker b(env, bo);
		thmq::session s(env, "inproc://");
		s.create_topic("in");
		s.create_topic("out");
		thmq::producer in(s, "in"), out(s, "out");
		thmq::consumer c(s, "in", "g");

		in.send("x");
		in.flush();
		{
			thmq::transaction t(s);
			thmq::message_options mo;

			out.send("a", mo.in(t));
			for (bool acked = false; !acked; s.wait(1s))
				for (auto m : c.fetch<1>())
					acked = t.ack(c, m);
			CHECK(s.transactions().size() == 1 && s.transactions()[0].id == t.id() && s.transactions()[0].state == THMQ_TXN_OPEN);
			t.commit();
			CHECK(thrown([&] { t.commit(); }) == ESHUTDOWN); /* it is over */
		}
		{
			thmq::transaction t(s), moved(std::move(t));

			out.send("never", thmq::message_options().in(moved));
			CHECK(thrown([&] { t.id(); }) == ESHUTDOWN);
		} /* aborted */
		{
			thmq::transaction t(s);

			out.send("neither", thmq::message_options().in(t));
			s.force_transaction(t.id(), THMQ_TXN_ABORT);
			CHECK(thrown([&] { t.commit(); }) == ECANCELED);
			CHECK(thrown([&] { t.abort(); }) == ESHUTDOWN);
			CHECK(thrown([&] { s.force_transaction(1234, THMQ_TXN_ABORT); }) == ENOENT);
		}
		{
			thmq::transaction t(s, named);

			out.send("b", thmq::message_options().in(t));
			t.prepare();
			prepared = t.id();
		} /* it waits for a decision */
		out.send("c");
		out.flush();
		CHECK(s.transactions().size() == 1 && s.transactions()[0].state == THMQ_TXN_PREPARED);
		CHECK(all_of(s, "out") == "a");
	}
	{
		thmq::environment env;
		thmq::broker b(env, bo);
		thmq::session s(env, "inproc://");

		s.watch_transactions("shop");
		s.decide_transaction(prepared, THMQ_TXN_COMMIT);
		for (int i = 0; i < 1000 && s.partition("out", 0).end_offset < 5; i++) /* each partition by itself shows it soon */
			s.wait(10ms);
		CHECK(all_of(s, "out") == "abc");
		CHECK(s.partition("in", 0, "g").group_offset == 1);
	}
	std::filesystem::remove_all(dir);
}

int main()
{
	errors_say_which();
	messages_come_as_they_went();
	messages_go_together();
	full_is_an_empty_optional();
	batches_give_back();
	ends_in_any_order();
	who_waits_for_room_waits_so_long();
	any_duration_is_one();
	what_was_moved_from_is_closed();
	an_environment_ends_with_its_object();
	a_child_knows_that_its_session_is_gone();
	a_close_that_cannot_be_done_now_keeps_the_handle();
	requests_are_answered();
	groups_are_looked_after();
	transactions_count_all_or_not_at_all();
	a_loop_of_ones_own();
	return 0;
}
