/* The worker's control socket: malformed messages end it with a sentence, it finds
 * out about its host unless it is told, and it never outlives its daemon. Needs
 * KVM. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/cleanup.h"
#include "lib/fdpass.h"
#include "vmm/control.h"
#include "vmm/host_facts.h"
#include "vmm/worker.h"

#define DEADLINE_MS 20000

struct bench {
	int control, channel; /* the daemon's ends */
	pid_t pid;
	int kvm;
};

static void bench_start(struct bench *b)
{
	int control[2], channel[2];

	b->control = b->channel = -1;
	b->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (b->kvm < 0)
		return;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), 0);
	b->pid = fork();
	assert_true(b->pid >= 0);
	if (!b->pid) {
		const struct worker_fds fds = { control[1], channel[1], b->kvm };

		(void)close(control[0]);
		(void)close(channel[0]);
		_exit(worker_main(&fds));
	}
	(void)close(control[1]);
	(void)close(channel[1]);
	b->control = control[0];
	b->channel = channel[0];
}

static void bench_end(struct bench *b)
{
	if (b->pid > 0) {
		(void)kill(b->pid, SIGKILL);
		(void)waitpid(b->pid, NULL, 0);
	}
	close_fd(&b->control);
	close_fd(&b->channel);
	close_fd(&b->kvm);
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	assert_non_null(b);
	bench_start(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	bench_end(*state);
	free(*state);
	return 0;
}

/* The next message, or 0 when the worker has closed its end. */
static size_t receive(const struct bench *b, void *message, size_t size)
{
	struct pollfd pfd = { .fd = b->control, .events = POLLIN };
	int fds[FDPASS_MAX];
	size_t nfds = 0;
	ssize_t n;

	assert_int_equal(poll(&pfd, 1, DEADLINE_MS), 1);
	n = fdpass_recv(b->control, message, size, fds, &nfds);
	assert_int_equal(nfds, 0);
	return n > 0 ? (size_t)n : 0;
}

static void wait_ready(const struct bench *b)
{
	struct control_ready ready;

	if (b->kvm < 0) {
		print_message("skipped: /dev/kvm is not usable\n");
		skip();
	}
	assert_int_equal(receive(b, &ready, sizeof(ready)), sizeof(ready));
	assert_int_equal(ready.header.type, CONTROL_READY);
	assert_int_equal(ready.header.version, CONTROL_VERSION);
	assert_int_equal(ready.pid, b->pid);
}

/* Whether the next message is what the worker found out about its host: not where
 * KVM behaves oddly. */
static bool reports_facts(const struct bench *b)
{
	struct pollfd pfd = { .fd = b->control, .events = POLLIN };
	struct control_header header = { 0 };

	assert_int_equal(poll(&pfd, 1, DEADLINE_MS), 1);
	assert_int_equal(recv(b->control, &header, sizeof(header), MSG_PEEK), sizeof(header));
	return header.type == CONTROL_HOST_FOUND;
}

/* The worker's last message says what was wrong, and it exits with 0. */
static void expect_end(struct bench *b, const char *what)
{
	struct control_ended ended;
	int status = -1;

	assert_int_equal(receive(b, &ended, sizeof(ended)), sizeof(ended));
	assert_int_equal(ended.header.type, CONTROL_ENDED);
	assert_int_equal(ended.reason, END_ERROR);
	assert_true(ended.code > 0);
	if (!strstr(ended.text, what))
		fail_msg("'%s' is not in '%s'", what, ended.text);
	assert_int_equal(receive(b, &ended, sizeof(ended)), 0);
	assert_int_equal(waitpid(b->pid, &status, 0), b->pid);
	b->pid = 0;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static struct control_boot boot_message(void)
{
	return (struct control_boot){ .header = { CONTROL_VERSION, CONTROL_BOOT },
				      .ram_bytes = 128ull << 20,
				      .isolation = ISOLATION_FULL };
}

static void boot_send(const struct bench *b, const void *data, size_t len, size_t nfds)
{
	int fds[FDPASS_MAX] = { -1 };

	for (size_t i = 0; i < nfds; i++) {
		fds[i] = memfd_create("input", MFD_CLOEXEC);
		assert_true(fds[i] >= 0);
		assert_int_equal(write(fds[i], "not a kernel at all", 19), 19);
	}
	assert_int_equal(fdpass_send(b->control, data, len, fds, nfds), 0);
	for (size_t i = 0; i < nfds; i++)
		(void)close(fds[i]);
}

static void expect_refusal(void **state, const struct control_boot *boot, size_t nfds,
			   const char *what)
{
	struct bench *b = *state;

	wait_ready(b);
	boot_send(b, boot, sizeof(*boot), nfds);
	expect_end(b, what);
}

static void short_messages_are_refused(void **state)
{
	struct control_boot boot = boot_message();
	struct bench *b = *state;

	wait_ready(b);
	boot_send(b, &boot, sizeof(boot) - 1, 1);
	expect_end(b, "control message");
}

static void tiny_messages_are_refused(void **state)
{
	struct bench *b = *state;

	wait_ready(b);
	boot_send(b, "x", 1, 0);
	expect_end(b, "control message");
}

static void long_messages_are_refused(void **state)
{
	struct bench *b = *state;
	static const char junk[CONTROL_MESSAGE_MAX];

	wait_ready(b);
	boot_send(b, junk, sizeof(junk), 1);
	expect_end(b, "control message");
}

static void other_versions_are_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.header.version++;
	expect_refusal(state, &boot, 1, "control message");
}

static void other_types_are_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.header.type = CONTROL_READY;
	expect_refusal(state, &boot, 1, "control message");
}

static void a_missing_kernel_is_refused(void **state)
{
	struct control_boot boot = boot_message();

	expect_refusal(state, &boot, 0, "descriptors");
}

static void missing_initrds_are_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.initrd_count = 2;
	expect_refusal(state, &boot, 2, "descriptors");
}

static void surplus_descriptors_are_refused(void **state)
{
	struct control_boot boot = boot_message();

	expect_refusal(state, &boot, 2, "descriptors");
}

static void too_many_initrds_are_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.initrd_count = CONTROL_INITRD_MAX + 1;
	expect_refusal(state, &boot, CONTROL_INITRD_MAX + 2, "descriptors");
}

static void endless_initrds_are_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.initrd_count = ~0u;
	expect_refusal(state, &boot, 0, "descriptors");
}

static void a_long_command_line_is_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.cmdline_length = CONTROL_CMDLINE_MAX;
	expect_refusal(state, &boot, 1, "command line");
}

static void an_unterminated_command_line_is_refused(void **state)
{
	struct control_boot boot = boot_message();

	memset(boot.cmdline, 'x', sizeof(boot.cmdline));
	boot.cmdline_length = CONTROL_CMDLINE_MAX - 1;
	expect_refusal(state, &boot, 1, "command line");
}

static void an_impossible_size_is_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.ram_bytes = (128ull << 20) + 1;
	expect_refusal(state, &boot, 1, "multiple of 2 MiB");
}

static void an_unknown_isolation_is_refused(void **state)
{
	struct control_boot boot = boot_message();

	boot.isolation = 3;
	expect_refusal(state, &boot, 1, "isolation mode 3");
}

static void a_garbage_kernel_is_refused(void **state)
{
	struct control_boot boot = boot_message();
	struct bench *b = *state;
	struct control_host host;

	wait_ready(b);
	boot_send(b, &boot, sizeof(boot), 1);
	if (reports_facts(b))
		(void)receive(b, &host, sizeof(host));
	expect_end(b, "kernel");
}

static void the_worker_ends_with_its_daemon(void **state)
{
	struct bench *b = *state;
	int status = -1;

	wait_ready(b);
	close_fd(&b->control);
	assert_int_equal(waitpid(b->pid, &status, 0), b->pid);
	b->pid = 0;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- what is known about the host ---- */

#define SHELL_RAM (64ull << 20)

static void shell_send(const struct bench *b, off_t m2p_bytes)
{
	const struct control_shell shell = { .header = { CONTROL_VERSION, CONTROL_SHELL },
					     .ram_bytes = SHELL_RAM,
					     .isolation = ISOLATION_FAST };
	cleanup_close int m2p = memfd_create("m2p", MFD_CLOEXEC);
	const int fds[] = { m2p, m2p }; /* the first is never used here */

	assert_true(m2p >= 0);
	assert_int_equal(ftruncate(m2p, m2p_bytes), 0);
	assert_int_equal(fdpass_send(b->control, &shell, sizeof(shell), fds, 2), 0);
}

#define M2P_BYTES ((off_t)(SHELL_RAM / 4096 * 8))

/* Makes a shell of a worker that is told nothing; the length of its report. */
static size_t shell_reports(const struct bench *b, struct control_host *host)
{
	wait_ready(b);
	shell_send(b, M2P_BYTES);
	if (!reports_facts(b)) {
		print_message("skipped: this KVM does not fit the fast paths\n");
		skip();
	}
	return receive(b, host, sizeof(*host));
}

static void expect_shell_ready(const struct bench *b)
{
	struct control_header header;

	assert_int_equal(receive(b, &header, sizeof(header)), sizeof(header));
	assert_int_equal(header.type, CONTROL_SHELL_READY);
}

static void what_one_worker_found_out_serves_another(void **state)
{
	struct control_host host;
	struct bench other;
	size_t length;

	length = shell_reports(*state, &host);
	expect_shell_ready(*state);
	bench_start(&other);
	wait_ready(&other);
	host.header.type = CONTROL_HOST;
	assert_int_equal(fdpass_send(other.control, &host, length, NULL, 0), 0);
	shell_send(&other, M2P_BYTES);
	expect_shell_ready(&other); /* without a report of its own */
	bench_end(&other);
}

/* Facts that a worker did report, changed by `spoil`, end another one. */
static void spoilt_facts_are_refused(void **state, void (*spoil)(struct host_facts *facts))
{
	struct control_host host;
	struct host_facts facts;
	struct bench other;
	size_t length;

	length = shell_reports(*state, &host);
	assert_int_equal(length, sizeof(host.header) + sizeof(facts));
	memcpy(&facts, host.facts, sizeof(facts));
	spoil(&facts);
	memcpy(host.facts, &facts, sizeof(facts));
	bench_start(&other);
	wait_ready(&other);
	host.header.type = CONTROL_HOST;
	assert_int_equal(fdpass_send(other.control, &host, length, NULL, 0), 0);
	expect_end(&other, "facts about the host");
	bench_end(&other);
}

static void spoil_count(struct host_facts *facts)
{
	facts->cpuid_count = CPUID_ENTRIES_MAX + 1;
}

static void facts_with_too_many_cpuid_leaves_are_refused(void **state)
{
	spoilt_facts_are_refused(state, spoil_count);
}

static void spoil_slots(struct host_facts *facts)
{
	facts->probe.slot_count = PROBE_SLOTS_MAX + 1;
}

static void facts_with_too_many_slots_are_refused(void **state)
{
	spoilt_facts_are_refused(state, spoil_slots);
}

static void spoil_kind(struct host_facts *facts)
{
	facts->probe.kind = 0;
}

static void facts_about_no_kind_of_kvm_are_refused(void **state)
{
	spoilt_facts_are_refused(state, spoil_kind);
}

static void spoil_reason(struct host_facts *facts)
{
	memset(facts->probe.reason, 'x', sizeof(facts->probe.reason));
}

static void facts_with_an_endless_reason_are_refused(void **state)
{
	spoilt_facts_are_refused(state, spoil_reason);
}

static void facts_of_another_build_are_refused(void **state)
{
	struct bench *b = *state;
	struct control_host host = { .header = { CONTROL_VERSION, CONTROL_HOST } };

	wait_ready(b);
	assert_int_equal(fdpass_send(b->control, &host,
				     sizeof(host.header) + sizeof(struct host_facts) - 1, NULL, 0),
			 0);
	expect_end(b, "facts about the host");
}

static void a_short_machine_to_physical_table_is_refused(void **state)
{
	struct bench *b = *state;

	wait_ready(b);
	shell_send(b, M2P_BYTES - 1);
	expect_end(b, "machine-to-physical");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(short_messages_are_refused),
		TEST(tiny_messages_are_refused),
		TEST(long_messages_are_refused),
		TEST(other_versions_are_refused),
		TEST(other_types_are_refused),
		TEST(a_missing_kernel_is_refused),
		TEST(missing_initrds_are_refused),
		TEST(surplus_descriptors_are_refused),
		TEST(too_many_initrds_are_refused),
		TEST(endless_initrds_are_refused),
		TEST(a_long_command_line_is_refused),
		TEST(an_unterminated_command_line_is_refused),
		TEST(an_impossible_size_is_refused),
		TEST(an_unknown_isolation_is_refused),
		TEST(a_garbage_kernel_is_refused),
		TEST(the_worker_ends_with_its_daemon),
		TEST(what_one_worker_found_out_serves_another),
		TEST(facts_with_too_many_cpuid_leaves_are_refused),
		TEST(facts_with_too_many_slots_are_refused),
		TEST(facts_about_no_kind_of_kvm_are_refused),
		TEST(facts_with_an_endless_reason_are_refused),
		TEST(facts_of_another_build_are_refused),
		TEST(a_short_machine_to_physical_table_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
