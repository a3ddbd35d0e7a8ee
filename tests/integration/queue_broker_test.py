# SPDX-License-Identifier: Apache-2.0
"""examples/queue-broker as its clients see it: durable before it says so, each job to one, retries, dead letters, bad requests, kill -9.

    queue_broker_test.py QUEUE_BROKER THMQ
"""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

BROKER, THMQ = sys.argv[1:3]


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def ask(self, request):
        self.socket.sendall(request)
        return self.line()

    def line(self):
        return self.file.readline().decode().strip()

    def put(self, data):
        answer = self.ask(b"PUT %d\n" % len(data) + data)
        assert answer.startswith("OK "), answer
        return int(answer.split()[1])

    def job(self, ask=True):
        if ask:
            self.socket.sendall(b"TAKE\n")
        words = self.line().split()
        assert words[0] == "JOB", words
        data = self.file.read(int(words[2]) + 1)[:-1]
        return int(words[1]), data, int(words[3])

    def gone(self):
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True

    def close(self):
        self.file.close()
        self.socket.close()


class QueueBroker(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(dir=".")
        self.data = os.path.join(self.dir.name, "data")
        self.start()

    def tearDown(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.assertEqual(self.process.wait(60), 0)
        self.process.stdout.close()
        self.dir.cleanup()

    def start(self):
        self.process = subprocess.Popen([BROKER, self.data], stdout=subprocess.PIPE, text=True)
        self.port = int(re.match(r"127\.0\.0\.1:(\d+)", self.process.stdout.readline()).group(1))

    def client(self):
        c = Client(self.port)
        self.addCleanup(c.close)
        return c

    def test_help_is_no_directory(self):
        for args, status in (["--help"], 0), (["-h"], 0), ([], 2), (["--data"], 2), (["a", "0", "b"], 2):
            p = subprocess.run([os.path.abspath(BROKER), *args], cwd=self.dir.name, capture_output=True, text=True, timeout=60)
            self.assertEqual((p.returncode, "usage" in (p.stderr if status else p.stdout)), (status, True))
        self.assertEqual(os.listdir(self.dir.name), ["data"])

    def test_who_asks_no_more_has_his_answers_first(self):
        def all_of(requests):
            c = Client(self.port)
            c.socket.sendall(requests)
            c.socket.shutdown(socket.SHUT_WR)
            answers = c.file.read()  # to the end
            c.close()
            return answers

        answers = all_of(b"TAKE\n")  # there is none, and it is not waited for
        self.assertEqual(answers, b"")
        answers = all_of(b"".join(b"PUT 5\njob %d" % i for i in range(5)) + b"DONE\nnonsense\nPUT 9\nhalf")
        self.assertEqual([a.split()[0] for a in answers.splitlines()], [b"OK"] * 5 + [b"ERR"] * 2)
        answers = all_of(b"TAKE\nDONE\nTAKE\n").splitlines()  # the second comes back
        self.assertEqual((answers[1], answers[2][:3], answers[4]), (b"job 0", b"OK ", b"job 1"))
        other = Client(self.port)
        self.assertEqual(sorted(other.job()[1] for _ in range(4) if [other.ask(b"DONE\n")]), [b"job %d" % i for i in range(1, 5)])
        other.close()

    def test_each_job_goes_to_one_and_is_done(self):
        a, b = self.client(), self.client()
        ids = [a.put(b"job %d" % i) for i in range(20)]
        self.assertEqual(ids, sorted(set(ids)))
        seen = []
        for _ in range(10):
            for c in (a, b):
                job, data, tries = c.job()
                seen.append((job, data))
                self.assertEqual(tries, 1)
            self.assertEqual(a.ask(b"DONE\n"), f"OK {seen[-2][0]}")
            self.assertEqual(b.ask(b"DONE\n"), f"OK {seen[-1][0]}")
        self.assertEqual(sorted(seen), [(i, b"job %d" % n) for n, i in enumerate(ids)])

    def test_who_waits_gets_it_in_turn(self):
        a, b, c = self.client(), self.client(), self.client()
        a.socket.sendall(b"TAKE\n")
        b.put(b"")  # has been round the loop: a waits
        self.assertEqual(a.job(ask=False)[1:], (b"", 1))
        b.socket.sendall(b"TAKE\n")
        c.put(b"x" * 65536)
        self.assertEqual(b.job(ask=False)[1], b"x" * 65536)

    def test_what_was_answered_survives_a_kill(self):
        c = self.client()
        ids = [c.put(b"%d" % i) for i in range(50)]
        self.assertEqual(c.job()[0], ids[0])
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.start()
        c = self.client()
        again = []
        for _ in ids:
            again.append(c.job()[0])
            c.ask(b"DONE\n")
        self.assertEqual(sorted(again), ids)

    def test_done_stays_done_over_a_restart(self):
        c = self.client()
        c.put(b"first")
        second = c.put(b"second")
        c.job()
        c.ask(b"DONE\n")
        self.process.terminate()
        self.assertEqual(self.process.wait(60), 0)
        self.process.stdout.close()
        self.start()
        self.assertEqual(self.client().job()[0], second)

    def test_who_goes_gives_back(self):
        a, b = self.client(), self.client()
        job = a.put(b"x")
        self.assertEqual(a.job()[0], job)
        a.close()
        self.assertEqual(b.job()[::2], (job, 2))

    def test_three_failures_are_a_dead_letter(self):
        c = self.client()
        job = c.put(b"bad")
        for n in (1, 2, 3):
            self.assertEqual(c.job(), (job, b"bad", n))
            self.assertEqual(c.ask(b"FAIL\n"), f"OK {job}")
        good = c.put(b"good")
        self.assertEqual(c.job()[0], good)
        other = self.client()
        other.socket.sendall(b"TAKE\n")  # a member sends it on when it looks for the next
        # the library's own tools see its topics
        out = subprocess.run([THMQ, "sub", "--follow", "--count", "1", self.data, "jobs.dead"], capture_output=True, text=True, timeout=60)
        self.assertEqual((out.returncode, out.stdout), (0, "bad\n"), out.stderr)

    def test_bad_requests_harm_nobody(self):
        c, other = self.client(), self.client()
        self.assertEqual(c.ask(b"NONSENSE\n"), "ERR no such request")
        self.assertEqual(c.ask(b"DONE\r\n"), "ERR you have none")
        c.put(b"x")
        c.job()
        self.assertEqual(c.ask(b"TAKE\n"), "ERR you have one")
        for bad in (b"PUT 65537\n", b"PUT -1\n", b"x" * 100):
            bad_client = self.client()
            bad_client.socket.sendall(bad)
            self.assertTrue(bad_client.gone(), bad)
        half = self.client()
        half.socket.sendall(b"PUT 10\nhalf")
        half.close()
        other.put(b"y")
        self.assertEqual(other.job()[1], b"y")

    def test_who_found_no_descriptor_is_let_in_once_there_is_one(self):
        self.client().put(b"x")
        room = len(os.listdir(f"/proc/{self.process.pid}/fd")) + 5
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (room, room))
        crowd = [Client(self.port) for _ in range(40)]
        last = self.client()  # behind all of them, and nobody knocks after it
        for c in crowd[:5]:
            self.assertEqual(c.ask(b"DONE\n"), "ERR you have none")
        for c in crowd:
            c.close()
        self.assertEqual(last.ask(b"DONE\n"), "ERR you have none")

    def test_many_at_once_and_in_one_piece(self):
        clients = [self.client() for _ in range(100)]
        for i, c in enumerate(clients):
            c.socket.sendall(b"\n".join(b"PUT 3\n%03d" % i for _ in range(10)) + b"\nTAKE\nDONE\nSTAT\n")
        taken = []
        for c in clients:
            self.assertTrue(all(c.line().startswith("OK ") for _ in range(10)))
            taken.append(c.job(ask=False)[0])
            self.assertEqual(c.line(), f"OK {taken[-1]}")
            self.assertEqual(c.line(), "ERR no such request")
        self.assertEqual(len(set(taken)), 100)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
