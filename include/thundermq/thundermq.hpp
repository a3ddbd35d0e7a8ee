/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thundermq.hpp - thundermq.h for C++17: handles that close themselves, views instead of pointers and lengths, exceptions
 * instead of negative numbers. Header only: it calls what thundermq.h declares, and adds nothing that is compiled into the library.
 *
 * Errors: what fails throws thmq::error, a std::system_error whose code says which, by its number as thmq_strerror() knows it. What
 * cannot be done *now* (-EAGAIN) is no failure: try_claim(), try_send(), try_send_batch(), try_commit() give an empty optional, ack() and its like
 * give false.
 *
 * Ends: a destructor closes, waits a second at most for what is unsettled, and tells nobody what came of it; who wants to know calls
 * close() before. Objects may go in any order: what was opened on another one does nothing any more once that is closed or gone, and throws
 * ESHUTDOWN. So does what was moved from. The environment goes with its object, on the thread of that, which must be the one that opened it.
 *
 * Threads: as in thundermq.h. A session and all that was opened on it belong to one thread at a time.
 */
#ifndef THUNDERMQ_THUNDERMQ_HPP
#define THUNDERMQ_THUNDERMQ_HPP

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <thundermq/thundermq.h>

namespace thmq {

using nanoseconds = std::chrono::nanoseconds;

constexpr nanoseconds forever = nanoseconds::max();
constexpr nanoseconds linger = std::chrono::seconds(1); /* what a destructor waits at most */

/* How long: any duration; one that nanoseconds have no room for is for ever, a negative one is none. */
class timespan {
public:
	template <class Rep, class Period> constexpr timespan(std::chrono::duration<Rep, Period> d) noexcept : ns_(number(d)) {}
	constexpr uint64_t count() const noexcept { return ns_; }

private:
	template <class Rep, class Period> static constexpr uint64_t number(std::chrono::duration<Rep, Period> d) noexcept
	{
		using exact = std::chrono::duration<long double, std::nano>;

		if (!(d > d.zero())) /* nor is what is no number */
			return 0;
		return std::chrono::duration_cast<exact>(d) >= exact(forever) ? UINT64_MAX
									      : static_cast<uint64_t>(std::chrono::duration_cast<nanoseconds>(d).count());
	}

	uint64_t ns_;
};

/* ------------------------------------------------------------------- errors */

class category_type : public std::error_category {
public:
	const char *name() const noexcept override { return "thundermq"; }
	std::string message(int number) const override { return thmq_strerror(number); }
	/* so that e.code() == std::errc::no_space_on_device holds where it should */
	std::error_condition default_error_condition(int number) const noexcept override
	{
		return number < THMQ_ECORRUPT ? std::generic_category().default_error_condition(number)
					      : std::error_condition(number, *this);
	}
};

inline const std::error_category &category() noexcept
{
	static const category_type one;
	return one;
}

/* code().value() is a positive errno or enum thmq_error. */
class error : public std::system_error {
public:
	error(int rc, const std::string &text) : std::system_error(rc < 0 ? -rc : rc, category(), once(rc, text)) {}
	/* what can be done about it: enum thmq_error_class */
	int error_class() const noexcept { return thmq_errclass(code().value()); }

private:
	/* std::system_error puts the number's meaning behind the text, where some texts have it already */
	static std::string once(int rc, const std::string &text)
	{
		const std::string tail = std::string(": ") + thmq_strerror(rc);

		return text.size() > tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0
			       ? text.substr(0, text.size() - tail.size())
			       : text;
	}
};

namespace detail {

/* Of a control call, whose text the library has. */
inline int control(int rc)
{
	if (rc < 0)
		throw error(rc, thmq_errmsg());
	return rc;
}

/* Of a data call, which sets no text. */
template <class T> T data(T rc, const char *call)
{
	if (rc < 0)
		throw error(static_cast<int>(rc), call);
	return rc;
}

/* As above; false: not now. */
template <class T> bool taken(T rc, const char *call)
{
	if (rc == -EAGAIN)
		return false;
	data(rc, call);
	return true;
}

/* Which of the things that are wrong it is, thmq_send_batch() does not say. */
inline void check_batch(const std::vector<thmq_batch_message> &messages)
{
	if (messages.empty() || messages.size() > THMQ_BATCH_MAX)
		throw error(-EINVAL, "thmq_send_batch: 1 to " + std::to_string(THMQ_BATCH_MAX) + " messages go together, not " + std::to_string(messages.size()));
	for (const auto &m : messages)
		if (m.key_len > THMQ_KEY_MAX)
			throw error(-EINVAL, "thmq_send_batch: the key of message " + std::to_string(&m - messages.data()) + " has " +
						     std::to_string(m.key_len) + " bytes, more than " + std::to_string(THMQ_KEY_MAX));
}

inline uint32_t length(std::string_view bytes)
{
	if (bytes.size() > UINT32_MAX)
		throw error(-EMSGSIZE, "thmq");
	return static_cast<uint32_t>(bytes.size());
}

/* All of something, whose number is known only once it is asked for: call(elements, max). */
template <class T, class F> std::vector<T> list(F &&call)
{
	std::vector<T> all(16);

	for (;;) {
		if constexpr (!std::is_integral_v<T>)
			for (auto &one : all)
				one.size = sizeof(one);
		size_t n = static_cast<size_t>(control(call(all.data(), static_cast<uint32_t>(all.size()))));
		bool fits = n <= all.size();

		all.resize(n);
		if (fits)
			return all;
	}
}

/* Is something open? What was opened on it, and what it gave, asks this before it calls the library; so does it itself. */
struct life {
	std::shared_ptr<life> on; /* what it was opened on */
	uintptr_t open = true; /* so wide: -Wpadded */

	static std::shared_ptr<life> begin(std::shared_ptr<life> on)
	{
		auto l = std::make_shared<life>();

		l->on = std::move(on);
		return l;
	}
	static bool is(const std::shared_ptr<life> &of) noexcept
	{
		const life *l = of.get();

		while (l && l->open && l->on)
			l = l->on.get();
		return l && l->open;
	}
};

/* A handle below an environment. */
template <class T, int (*Close)(T *, uint64_t)> class handle {
public:
	handle(handle &&other) noexcept
		: life_(std::move(other.life_)), raw_(std::exchange(other.raw_, nullptr))
	{
	}
	handle &operator=(handle &&other) noexcept
	{
		if (this != &other) {
			drop();
			life_ = std::move(other.life_);
			raw_ = std::exchange(other.raw_, nullptr);
		}
		return *this;
	}
	handle(const handle &) = delete;
	handle &operator=(const handle &) = delete;

	/* for calls of thundermq.h */
	T *raw() const
	{
		if (!raw_ || !life::is(life_))
			throw error(-ESHUTDOWN, "closed");
		return raw_;
	}

	/* It is closed also where this throws, but with EDEADLK: nothing was done. A second time does nothing. */
	void close(timespan timeout = linger)
	{
		if (raw_ && life::is(life_)) {
			int rc = Close(raw_, timeout.count());

			if (rc != -EDEADLK)
				over();
			control(rc);
		}
		raw_ = nullptr;
	}

protected:
	explicit handle(const std::shared_ptr<life> &on) : life_(life::begin(on)) {}
	~handle() { drop(); }
	/* it is closed, whoever did it */
	void over() noexcept
	{
		if (life_)
			life_->open = false;
		raw_ = nullptr;
	}

	std::shared_ptr<life> life_;
	T *raw_ = nullptr;

private:
	void drop() noexcept
	{
		if (raw_ && life::is(life_))
			Close(raw_, timespan(linger).count());
		over();
	}
};

} /* namespace detail */

/* ------------------------------------------------------------------ options */

/*
 * The structs of thundermq.h, set to the defaults: change fields. What they point to is needed as thundermq.h says.
 */
struct environment_options : thmq_env_opts {
	environment_options() : thmq_env_opts() { size = sizeof(thmq_env_opts); }
};
struct tls_options : thmq_tls_opts {
	tls_options() : thmq_tls_opts() { size = sizeof(thmq_tls_opts); }
};
struct broker_options : thmq_broker_opts {
	broker_options() : thmq_broker_opts() { size = sizeof(thmq_broker_opts); }
};
struct session_options : thmq_session_opts {
	session_options() : thmq_session_opts() { size = sizeof(thmq_session_opts); }
};
struct topic_options : thmq_topic_opts {
	topic_options() : thmq_topic_opts() { size = sizeof(thmq_topic_opts); }
};
struct producer_options : thmq_producer_opts {
	producer_options() : thmq_producer_opts() { size = sizeof(thmq_producer_opts); }
};
struct consumer_options : thmq_consumer_opts {
	consumer_options() : thmq_consumer_opts() { size = sizeof(thmq_consumer_opts); }
};
struct transaction_options : thmq_txn_opts {
	transaction_options() : thmq_txn_opts() { size = sizeof(thmq_txn_opts); }
};
class transaction;
struct message_options : thmq_message_opts {
	message_options() : thmq_message_opts() { size = sizeof(thmq_message_opts); }
	/* it counts if that is committed */
	message_options &in(const transaction &t);
	message_options &with_key(std::string_view bytes)
	{
		key = bytes.data();
		key_len = detail::length(bytes);
		return *this;
	}
};
/* One of those that producer::send_batch() sends: thmq_batch_message, with room for its tag, headers and time to live. Bytes and key are needed until it is sent. */
inline thmq_batch_message batch_message(std::string_view bytes, std::string_view key = {})
{
	thmq_batch_message m = {};

	m.data = bytes.data();
	m.len = detail::length(bytes);
	m.key = key.empty() ? nullptr : key.data();
	m.key_len = detail::length(key);
	return m;
}

/* -------------------------------------------------------------- environment */

class environment {
public:
	explicit environment(const environment_options &opts = {}) : life_(detail::life::begin(nullptr))
	{
		detail::control(thmq_env_open(&raw_, &opts));
	}
	environment(environment &&other) noexcept : life_(std::move(other.life_)), raw_(std::exchange(other.raw_, nullptr)) {}
	environment &operator=(environment &&other) noexcept
	{
		if (this != &other) {
			drop();
			life_ = std::move(other.life_);
			raw_ = std::exchange(other.raw_, nullptr);
		}
		return *this;
	}
	environment(const environment &) = delete;
	environment &operator=(const environment &) = delete;
	~environment() { drop(); }

	thmq_env *raw() const
	{
		if (!raw_)
			throw error(-ESHUTDOWN, "closed");
		return raw_;
	}
	/* drives the calling thread's core; how much was done */
	int poll(timespan timeout = nanoseconds(0)) { return detail::control(thmq_poll(raw(), timeout.count())); }
	int fd() { return detail::control(thmq_env_fd(raw())); }
	/* true: sleep on fd(); false: something is there, poll first */
	bool arm() { return detail::control(thmq_env_arm(raw())) == 0; }
	/* the function of this name hides the struct's in C++, hence the word struct */
	struct ::thmq_env_stats stats() const
	{
		struct ::thmq_env_stats s = {};

		s.size = sizeof(s);
		detail::control(::thmq_env_stats(raw(), &s));
		return s;
	}

	/* All that is open on it is closed too. With EDEADLK nothing was done. */
	void close(timespan timeout = linger)
	{
		int rc = raw_ ? thmq_env_close(raw_, timeout.count()) : 0;

		if (rc != -EDEADLK)
			over();
		detail::control(rc);
	}

private:
	friend class broker;
	friend class session;
	void over() noexcept
	{
		if (life_)
			life_->open = false;
		raw_ = nullptr;
	}
	void drop() noexcept
	{
		if (raw_)
			thmq_env_close(raw_, timespan(linger).count());
		over();
	}

	std::shared_ptr<detail::life> life_;
	thmq_env *raw_ = nullptr;
};

/* ------------------------------------------------------------------- broker */

class broker : public detail::handle<thmq_broker, thmq_broker_close> {
public:
	explicit broker(environment &env, const broker_options &opts = {}) : handle(env.life_)
	{
		detail::control(thmq_broker_open(env.raw(), &opts, &raw_));
	}

	/* where it listens, with the port that it got; empty: there are no more */
	std::optional<std::string> listen_url(uint32_t index = 0) const
	{
		char url[512];
		int rc = thmq_broker_listen_url(raw(), index, url, sizeof(url));

		if (rc == -ENOENT)
			return {};
		detail::control(rc);
		return url;
	}
	struct ::thmq_broker_stats stats() const
	{
		struct ::thmq_broker_stats s = {};

		s.size = sizeof(s);
		detail::control(::thmq_broker_stats(raw(), &s));
		return s;
	}
	void copy(const char *dest, timespan timeout)
	{
		detail::control(thmq_broker_copy(raw(), dest, timeout.count()));
	}
};

/* ----------------------------------------------------------------- messages */

/* One message, in the library's memory: nothing is copied, and nothing here outlives the batch, or the response, that it is of. */
class message {
public:
	explicit message(const thmq_message &m) : m_(&m) {}

	std::string_view data() const { return {static_cast<const char *>(m_->data), m_->len}; }
	std::string_view key() const { return {static_cast<const char *>(m_->key), m_->key_len}; }
	std::string_view tag() const { return {m_->tag, m_->tag_len}; }
	uint32_t partition() const { return m_->partition; }
	uint64_t offset() const { return m_->offset; }
	std::chrono::time_point<std::chrono::system_clock, nanoseconds> time() const
	{
		return std::chrono::time_point<std::chrono::system_clock, nanoseconds>(nanoseconds(m_->time_ns));
	}
	/* the first header of that name; its value's bytes, whose type is of enum thmq_header_type */
	std::optional<std::string_view> header(const char *name) const
	{
		thmq_header h;
		int rc = thmq_header_find(m_, name, &h);

		if (rc == -ENOENT)
			return {};
		detail::data(rc, "thmq_header_find");
		return std::string_view(static_cast<const char *>(h.value), h.value_len);
	}
	/* f(const thmq_header &) for each, in their order */
	template <class F> void each_header(F &&f) const
	{
		uint32_t cursor = 0;
		thmq_header h;

		while (detail::data(thmq_header_next(m_, &cursor, &h), "thmq_header_next") == 1)
			f(static_cast<const thmq_header &>(h));
	}
	/* A copy of it may be acknowledged after the batch was released */
	const thmq_message &raw() const { return *m_; }

private:
	const thmq_message *m_;
};

/* An answer to a request. Its end gives it back. Goes before its session does. */
class response {
public:
	response(response &&other) noexcept
		: session_(std::exchange(other.session_, nullptr)), life_(std::move(other.life_)), r_(std::exchange(other.r_, {}))
	{
	}
	response(const response &) = delete;
	response &operator=(const response &) = delete;
	response &operator=(response &&) = delete;
	~response()
	{
		if (session_ && detail::life::is(life_))
			thmq_response_release(session_, &r_, 1);
	}

	/* what producer::try_request() returned, and was given */
	uint64_t request() const { return r_.request; }
	void *cookie() const { return r_.cookie; }
	/* valid as long as this is, and while it stays where it is */
	thmq::message message() const { return thmq::message(r_.message); }

private:
	friend class session;
	friend class producer;
	response(thmq_session *s, std::shared_ptr<detail::life> l, const thmq_response &is)
		: session_(s), life_(std::move(l)), r_(is)
	{
	}

	thmq_session *session_;
	std::shared_ptr<detail::life> life_; /* of the session */
	thmq_response r_;
};

/* ------------------------------------------------------------------ session */

class session : public detail::handle<thmq_session, thmq_session_close> {
public:
	session(environment &env, const char *url, const session_options &opts = {}) : handle(env.life_)
	{
		detail::control(thmq_connect(env.raw(), url, &opts, &raw_));
	}

	/* true: something is there; false: the time has passed */
	bool wait(timespan timeout)
	{
		return detail::control(thmq_session_wait(raw(), timeout.count())) == 1;
	}
	int fd() { return detail::control(thmq_session_fd(raw())); }
	/* true: sleep on fd(); false: something is there already */
	bool arm() { return detail::control(thmq_session_arm(raw())) == 0; }

	void create_topic(const char *name, const topic_options &opts = {})
	{
		detail::control(thmq_topic_create(raw(), name, &opts));
	}
	/* what: of THMQ_ALTER_* */
	void alter_topic(const char *name, const topic_options &opts, uint32_t what)
	{
		detail::control(thmq_topic_alter(raw(), name, &opts, what));
	}
	void delete_topic(const char *name) { detail::control(thmq_topic_delete(raw(), name)); }
	thmq_topic_info topic(const char *name)
	{
		thmq_topic_info info = {};

		info.size = sizeof(info);
		detail::control(thmq_topic_describe(raw(), name, &info));
		return info;
	}
	std::vector<thmq_topic_info> topics()
	{
		return detail::list<thmq_topic_info>(
			[&](thmq_topic_info *all, uint32_t max) { return thmq_topic_list(raw(), all, max); });
	}
	thmq_partition_info partition(const char *topic, uint32_t partition, const char *group = nullptr)
	{
		thmq_partition_info info = {};

		info.size = sizeof(info);
		detail::control(thmq_partition_describe(raw(), topic, partition, group, &info));
		return info;
	}
	/* the newest message with a key, if there is one */
	std::optional<thmq_key_info> find_key(const char *topic, std::string_view key, uint64_t before_offset = UINT64_MAX,
					      uint32_t partition = UINT32_MAX)
	{
		thmq_key_info info = {};

		info.size = sizeof(info);
		int rc = thmq_key_find(raw(), topic, partition, key.data(), detail::length(key), before_offset, &info);

		if (rc == -ENOENT)
			return {};
		detail::control(rc);
		return info;
	}
	/* the groups of a topic; one of them, with its lag; who is in it; and which of these reads partition 0, 1 …: UINT32_MAX nobody */
	std::vector<thmq_group_info> groups(const char *topic)
	{
		return detail::list<thmq_group_info>(
			[&](thmq_group_info *all, uint32_t max) { return thmq_group_list(raw(), topic, all, max); });
	}
	thmq_group_info group(const char *topic, const char *group)
	{
		thmq_group_info info = {};

		info.size = sizeof(info);
		detail::control(thmq_group_describe(raw(), topic, group, &info));
		return info;
	}
	std::vector<thmq_group_member> group_members(const char *topic, const char *group)
	{
		return detail::list<thmq_group_member>([&](thmq_group_member *all, uint32_t max) {
			return thmq_group_members(raw(), topic, group, all, max);
		});
	}
	std::vector<uint32_t> group_owners(const char *topic, const char *group)
	{
		return detail::list<uint32_t>(
			[&](uint32_t *all, uint32_t max) { return thmq_group_owners(raw(), topic, group, all, max); });
	}
	/* EBUSY where it has members, but with THMQ_GROUP_FORCE */
	void reset_group(const char *topic, const char *group, uint32_t start, uint64_t value = 0, uint32_t partition = UINT32_MAX,
			 uint32_t flags = 0)
	{
		detail::control(thmq_group_reset(raw(), topic, group, partition, start, value, flags));
	}
	void delete_group(const char *topic, const char *group, uint32_t flags = 0)
	{
		detail::control(thmq_group_delete(raw(), topic, group, flags));
	}
	/* THMQ_EVENT_TXN_CHECK asks what is to become of prepared transactions of that name; decision: of enum thmq_txn_decision */
	void watch_transactions(const char *name) { detail::control(thmq_txn_watch(raw(), name)); }
	void decide_transaction(uint64_t id, uint32_t decision, timespan timeout = std::chrono::seconds(30))
	{
		detail::control(thmq_txn_decide(raw(), id, decision, timeout.count()));
	}
	/* those of all sessions that are not over, and the end of one that holds something up */
	std::vector<thmq_txn_info> transactions()
	{
		return detail::list<thmq_txn_info>([&](thmq_txn_info *all, uint32_t max) { return thmq_txn_list(raw(), all, max); });
	}
	void force_transaction(uint64_t id, uint32_t decision, timespan timeout = std::chrono::seconds(30))
	{
		detail::control(thmq_txn_force(raw(), id, decision, timeout.count()));
	}
	/* an answer to a request, if one has come; throws ENOBUFS where too many are held */
	std::optional<response> next_response()
	{
		thmq_response r;

		if (detail::data(thmq_responses(raw(), &r, 1), "thmq_responses") == 0)
			return {};
		return response(raw(), life_, r);
	}
	/* Answers a message that was fetched and is held. false: the window is full; wait, and try again. ENOENT: it is no request */
	bool try_reply(const message &request, std::string_view bytes, const message_options &opts = {})
	{
		return detail::taken(thmq_reply(raw(), &request.raw(), bytes.data(), detail::length(bytes), &opts), "thmq_reply");
	}
	/* what happened, if anything */
	std::optional<thmq_event> next_event()
	{
		thmq_event e;

		if (detail::data(thmq_events(raw(), &e, 1), "thmq_events") == 0)
			return {};
		return e;
	}

private:
	friend class producer;
	friend class consumer;
	friend class transaction;
};

/* ----------------------------------------------------------------- producer */

class producer;

/* Room for a message in the library's memory. Aborted by its end, unless it was committed. Goes before its producer does. */
class claim {
public:
	claim(claim &&other) noexcept
		: producer_(std::exchange(other.producer_, nullptr)), life_(std::move(other.life_)), claim_(std::exchange(other.claim_, {}))
	{
	}
	claim(const claim &) = delete;
	claim &operator=(const claim &) = delete;
	claim &operator=(claim &&) = delete;
	~claim()
	{
		if (producer_ && detail::life::is(life_))
			thmq_abort(producer_, &claim_);
	}

	char *data() { return static_cast<char *>(claim_.data); }
	uint32_t size() const { return claim_.len; }
	uint32_t partition() const { return claim_.partition; }
	/* its sequence; empty: the broker's queue is full, and the claim still held */
	std::optional<uint64_t> try_commit()
	{
		if (!producer_ || !detail::life::is(life_))
			throw error(-ESHUTDOWN, "thmq_commit");
		int64_t rc = thmq_commit(producer_, &claim_);

		if (rc == -EAGAIN)
			return {};
		producer_ = nullptr;
		claim_ = {};
		return static_cast<uint64_t>(detail::data(rc, "thmq_commit"));
	}

private:
	friend class producer;
	claim(thmq_producer *p, std::shared_ptr<detail::life> l, const struct ::thmq_claim &c)
		: producer_(p), life_(std::move(l)), claim_(c)
	{
	}

	thmq_producer *producer_;
	std::shared_ptr<detail::life> life_; /* of the producer */
	struct ::thmq_claim claim_;
};

class producer : public detail::handle<thmq_producer, thmq_producer_close> {
public:
	producer(session &s, const char *topic, const producer_options &opts = {}) : handle(s.life_), session_(s.raw()), session_life_(s.life_)
	{
		detail::control(thmq_producer_open(session_, topic, &opts, &raw_));
	}

	/* empty: the window is full; wait for the session, and try again */
	std::optional<claim> try_claim(uint32_t len, const message_options &opts = {})
	{
		struct ::thmq_claim c;

		if (!detail::taken(thmq_claim(raw(), &opts, len, &c), "thmq_claim"))
			return {};
		return claim(raw_, life_, c);
	}
	/* its sequence; empty: full, nothing was taken */
	std::optional<uint64_t> try_send(std::string_view bytes, const message_options &opts = {})
	{
		int64_t rc = thmq_send(raw(), bytes.data(), detail::length(bytes), &opts);

		if (!detail::taken(rc, "thmq_send"))
			return {};
		return static_cast<uint64_t>(rc);
	}
	/* Waits while the window is full, at most so long: ETIMEDOUT. Its sequence: taken, not yet durable, see flush() */
	uint64_t send(std::string_view bytes, const message_options &opts = {}, timespan timeout = std::chrono::seconds(30))
	{
		return until_taken([&] { return try_send(bytes, opts); }, "send", timeout);
	}
	/* Together, all or none, to one partition, their payloads compressed as one; the one sequence of all. Empty: full, none was taken */
	std::optional<uint64_t> try_send_batch(const std::vector<thmq_batch_message> &messages, const message_options &opts = {})
	{
		detail::check_batch(messages);
		int64_t rc = thmq_send_batch(raw(), messages.data(), static_cast<uint32_t>(messages.size()), &opts);

		if (!detail::taken(rc, "thmq_send_batch"))
			return {};
		return static_cast<uint64_t>(rc);
	}
	/* producer.send_batch({thmq::batch_message("paid", "order-7"), thmq::batch_message("sent", "order-7")}); waits as send() */
	uint64_t send_batch(const std::vector<thmq_batch_message> &messages, const message_options &opts = {},
			    timespan timeout = std::chrono::seconds(30))
	{
		return until_taken([&] { return try_send_batch(messages, opts); }, "send_batch", timeout);
	}
	/* A message that wants an answer, which comes by session::next_response(). Its number; empty: full, nothing was taken */
	std::optional<uint64_t> try_request(std::string_view bytes, timespan timeout, const message_options &opts = {},
					    void *cookie = nullptr)
	{
		int64_t rc = thmq_request(raw(), bytes.data(), detail::length(bytes), &opts, timeout.count(), cookie);

		if (!detail::taken(rc, "thmq_request"))
			return {};
		return static_cast<uint64_t>(rc);
	}
	/* Asks, and waits for the answer; ETIMEDOUT */
	response call(std::string_view bytes, timespan timeout, const message_options &opts = {})
	{
		thmq_response r;

		detail::control(thmq_call(raw(), bytes.data(), detail::length(bytes), &opts, timeout.count(), &r));
		return response(session_, session_life_, r);
	}
	/* Until all that was sent has the durability that was asked for. EIO: some of it failed, and events tell which */
	void flush(timespan timeout = std::chrono::seconds(30))
	{
		detail::control(thmq_flush(raw(), timeout.count()));
	}
	/* the highest sequence up to which all is settled */
	uint64_t watermark() { return static_cast<uint64_t>(detail::data(thmq_watermark(raw()), "thmq_watermark")); }
	uint32_t len_max() const { return thmq_producer_len_max(raw()); }

private:
	template <class F> uint64_t until_taken(F &&attempt, const char *what, timespan timeout)
	{
		const auto begun = std::chrono::steady_clock::now();
		uint64_t passed = 0;

		for (;;) {
			if (auto sequence = attempt())
				return *sequence;
			if (passed >= timeout.count())
				throw error(-ETIMEDOUT, what);
			/* it returns at once while something else is there that nobody takes, but drives the core */
			detail::control(thmq_session_wait(session_, timeout.count() == UINT64_MAX ? UINT64_MAX : timeout.count() - passed));
			passed = timespan(std::chrono::steady_clock::now() - begun).count();
		}
	}

	thmq_session *session_;
	std::shared_ptr<detail::life> session_life_; /* for responses, which outlive this */
};

/* ----------------------------------------------------------------- consumer */

class consumer;

/* What one fetch gave. Its end gives the messages back (which does not acknowledge them). Goes before its consumer does. */
template <uint32_t Max> class batch {
public:
	batch(const batch &) = delete;
	batch &operator=(const batch &) = delete;
	~batch()
	{
		if (count_ && detail::life::is(life_))
			thmq_release(consumer_, messages_, count_);
	}

	class iterator {
	public:
		explicit iterator(const thmq_message *at) : at_(at) {}
		message operator*() const { return message(*at_); }
		iterator &operator++()
		{
			++at_;
			return *this;
		}
		bool operator!=(const iterator &other) const { return at_ != other.at_; }

	private:
		const thmq_message *at_;
	};

	iterator begin() const { return iterator(messages_); }
	iterator end() const { return iterator(messages_ + count_); }
	uint32_t size() const { return count_; }
	bool empty() const { return count_ == 0; }
	message operator[](uint32_t i) const { return message(messages_[i]); }

private:
	friend class consumer;
	batch(thmq_consumer *c, const std::shared_ptr<detail::life> &l)
		: consumer_(c), life_(l),
		  count_(static_cast<uint32_t>(detail::data(thmq_fetch(c, messages_, Max), "thmq_fetch")))
	{
	}

	thmq_consumer *consumer_;
	std::shared_ptr<detail::life> life_; /* of the consumer */
	thmq_message messages_[Max];
	uint32_t count_;
};

class consumer : public detail::handle<thmq_consumer, thmq_consumer_close> {
public:
	/* group: nullptr for a reader of its own */
	consumer(session &s, const char *topic, const char *group, const consumer_options &opts = {}) : handle(s.life_)
	{
		detail::control(thmq_consumer_open(s.raw(), topic, group, &opts, &raw_));
	}

	/* What is there, which may be nothing. Never waits; throws ENOBUFS where the whole prefetch is held. */
	template <uint32_t Max = 64> batch<Max> fetch() { return batch<Max>(raw(), life_); }

	/* false: not taken now, poll or wait and do it again (or leave it to the next one of the partition, outside of shared groups) */
	bool ack(const message &m) { return detail::taken(thmq_ack(raw(), &m.raw()), "thmq_ack"); }
	bool nack(const message &m, timespan delay)
	{
		/* the largest number means something else there */
		return detail::taken(thmq_nack(raw(), &m.raw(), delay.count() == THMQ_NACK_BACKOFF ? delay.count() - 1 : delay.count()), "thmq_nack");
	}
	/* as backoff_ns of its options says */
	bool nack(const message &m) { return detail::taken(thmq_nack(raw(), &m.raw(), THMQ_NACK_BACKOFF), "thmq_nack"); }
	bool extend(const message &m, timespan invisible)
	{
		return detail::taken(thmq_extend(raw(), &m.raw(), invisible.count()), "thmq_extend");
	}
	bool reject(const message &m, const char *reason = nullptr)
	{
		return detail::taken(thmq_reject(raw(), &m.raw(), reason), "thmq_reject");
	}
	uint32_t priority(const message &m) const
	{
		return static_cast<uint32_t>(detail::data(thmq_message_priority(raw(), &m.raw()), "thmq_message_priority"));
	}
	uint32_t deliveries(const message &m) const
	{
		return static_cast<uint32_t>(detail::data(thmq_message_deliveries(raw(), &m.raw()), "thmq_message_deliveries"));
	}
	/* enum thmq_encoding, where the options have THMQ_CONSUMER_ENCODED */
	int encoding(const message &m) const
	{
		return detail::data(thmq_message_encoding(raw(), &m.raw()), "thmq_message_encoding");
	}
	/* until all acknowledgements are stored durably */
	void flush(timespan timeout = std::chrono::seconds(30))
	{
		detail::control(thmq_consumer_flush(raw(), timeout.count()));
	}
	void seek(uint32_t start, uint64_t value = 0, uint32_t partition = UINT32_MAX)
	{
		detail::control(thmq_seek(raw(), partition, start, value));
	}
	/* all before it was fetched, or is nothing for this consumer */
	uint64_t position(uint32_t partition)
	{
		uint64_t offset = 0;

		detail::control(thmq_consumer_position(raw(), partition, &offset));
		return offset;
	}
};

/* -------------------------------------------------------------- transaction */

/*
 * Messages (message_options::in()) and acknowledgements that count all or not at all. close() aborts it, and so does its end, unless it is
 * prepared: then it waits for a decision, whatever dies.
 */
class transaction : public detail::handle<thmq_txn, thmq_txn_abort> {
public:
	explicit transaction(session &s, const transaction_options &opts = {}) : handle(s.life_)
	{
		detail::control(thmq_txn_begin(s.raw(), &opts, &raw_));
	}
	transaction(transaction &&other) noexcept : handle(std::move(other)), prepared_(std::exchange(other.prepared_, nullptr)) {}
	transaction &operator=(transaction &&other) noexcept
	{
		if (this != &other) {
			let_be();
			handle::operator=(std::move(other));
			prepared_ = std::exchange(other.prepared_, nullptr);
		}
		return *this;
	}
	~transaction() { let_be(); }

	uint64_t id() const { return thmq_txn_id(raw()); }
	/* in place of consumer::ack(); false: not now, wait and do it again */
	bool ack(const consumer &c, const message &m) { return detail::taken(thmq_txn_ack(raw(), c.raw(), &m.raw()), "thmq_txn_ack"); }
	void prepare(timespan timeout = std::chrono::seconds(30))
	{
		end(thmq_txn_prepare(raw(), timeout.count()));
		prepared_ = raw_;
	}
	/* ETIMEDOUT, ECONNRESET: it is not known, and is still there: again. Whatever else it throws: it is aborted */
	void commit(timespan timeout = std::chrono::seconds(30)) { end(thmq_txn_commit(raw(), timeout.count())); }
	void abort(timespan timeout = std::chrono::seconds(30)) { end(thmq_txn_abort(raw(), timeout.count())); }

private:
	void end(int rc)
	{
		if (thmq_txn_id(raw_) == 0)
			over();
		detail::control(rc);
	}
	void let_be() noexcept
	{
		if (prepared_)
			raw_ = nullptr;
	}

	thmq_txn *prepared_ = nullptr; /* once it is */
};

inline message_options &message_options::in(const transaction &t)
{
	txn = t.raw();
	return *this;
}

} /* namespace thmq */

#endif
