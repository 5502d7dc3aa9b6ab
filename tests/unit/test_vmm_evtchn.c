/* Event channels and grants: what Linux does, and what a hostile kernel does. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/fake_machine.h"
#include "vmm/evtchn.h"
#include "vmm/grant.h"
#include "vmm/xen_abi.h"

static int setup(void **state)
{
	*state = fake_machine_new();
	return 0;
}

static int teardown(void **state)
{
	fake_machine_free(*state);
	return 0;
}

static int64_t op(struct machine *m, uint64_t command, void *arg, size_t len)
{
	int64_t rc = evtchn_hypercall(m, command, fake_put(m, 0, arg, len));

	fake_get(m, 0, arg, len);
	return rc;
}

static int64_t bind_virq(struct machine *m, uint32_t virq, uint32_t vcpu, uint32_t *port)
{
	struct evtchn_bind_virq b = { .virq = virq, .vcpu = vcpu };
	int64_t rc = op(m, EVTCHNOP_bind_virq, &b, sizeof(b));

	*port = b.port;
	return rc;
}

static int64_t alloc_unbound(struct machine *m, domid_t dom, uint32_t *port)
{
	struct evtchn_alloc_unbound a = { .dom = dom };
	int64_t rc = op(m, EVTCHNOP_alloc_unbound, &a, sizeof(a));

	*port = a.port;
	return rc;
}

static int64_t bind_local(struct machine *m, uint32_t remote, uint32_t *port)
{
	struct evtchn_bind_interdomain b = { .remote_dom = DOMID_SELF, .remote_port = remote };
	int64_t rc = op(m, EVTCHNOP_bind_interdomain, &b, sizeof(b));

	*port = b.local_port;
	return rc;
}

static int64_t port_op(struct machine *m, uint64_t command, uint32_t port)
{
	struct evtchn_unmask p = { .port = port }; /* all of these begin with the port */

	return op(m, command, &p, sizeof(p));
}

static bool pending(const struct machine *m, uint32_t port)
{
	return shared_info_get(m)->evtchn_pending[port / 64] >> (port % 64) & 1;
}

static void a_virq_reaches_the_guest(void **state)
{
	struct machine *m = *state;
	uint32_t port;

	assert_int_equal(bind_virq(m, VIRQ_TIMER, 0, &port), 0);
	assert_true(port >= 3 && port < EVTCHN_PORTS);
	evtchn_raise_virq(m, VIRQ_TIMER);
	assert_true(pending(m, port));
	assert_false(vcpu_info_pending(m)); /* masked ports wait */
	assert_int_equal(port_op(m, EVTCHNOP_unmask, port), 0);
	assert_true(vcpu_info_pending(m));
	assert_true(vcpu_info_get(m)->evtchn_pending_sel >> (port / 64) & 1);
}

static void a_virq_is_bound_once(void **state)
{
	struct machine *m = *state;
	uint32_t port, again;

	assert_int_equal(bind_virq(m, VIRQ_DEBUG, 0, &port), 0);
	assert_int_equal(bind_virq(m, VIRQ_DEBUG, 0, &again), -EEXIST);
	assert_int_equal(port_op(m, EVTCHNOP_close, port), 0);
	evtchn_raise_virq(m, VIRQ_DEBUG);
	assert_false(pending(m, port));
	assert_int_equal(bind_virq(m, VIRQ_DEBUG, 0, &again), 0);
}

static void hostile_virqs_are_refused(void **state)
{
	struct machine *m = *state;
	uint32_t port;

	assert_int_equal(bind_virq(m, EVTCHN_VIRQS, 0, &port), -EINVAL);
	assert_int_equal(bind_virq(m, ~0u, 0, &port), -EINVAL);
	assert_int_equal(bind_virq(m, VIRQ_TIMER, 1, &port), -ENOENT);
	evtchn_raise_virq(m, ~0u);
	evtchn_raise(m, 0);
	evtchn_raise(m, EVTCHN_PORTS);
	evtchn_raise(m, ~0u);
}

static void ports_of_the_guest_reach_each_other(void **state)
{
	struct machine *m = *state;
	uint32_t a, b, c;

	assert_int_equal(alloc_unbound(m, DOMID_SELF, &a), 0);
	assert_int_equal(bind_local(m, a, &b), 0);
	assert_int_not_equal(a, b);
	assert_int_equal(port_op(m, EVTCHNOP_send, a), 0);
	assert_true(pending(m, b));
	assert_int_equal(port_op(m, EVTCHNOP_send, b), 0);
	assert_true(pending(m, a));
	assert_int_equal(bind_local(m, a, &c), -EINVAL);
	assert_int_equal(port_op(m, EVTCHNOP_close, b), 0);
	assert_int_equal(m->pv.ports[a].kind, EVTCHN_UNBOUND);
	assert_int_equal(port_op(m, EVTCHNOP_send, a), 0);
	assert_int_equal(port_op(m, EVTCHNOP_close, a), 0);
	assert_int_equal(port_op(m, EVTCHNOP_send, a), -EINVAL);
}

static void an_ipi_comes_back(void **state)
{
	struct machine *m = *state;
	struct evtchn_bind_ipi b = { .vcpu = 0 };

	assert_int_equal(op(m, EVTCHNOP_bind_ipi, &b, sizeof(b)), 0);
	assert_int_equal(port_op(m, EVTCHNOP_send, b.port), 0);
	assert_true(pending(m, b.port));
	b.vcpu = 1;
	assert_int_equal(op(m, EVTCHNOP_bind_ipi, &b, sizeof(b)), -ENOENT);
}

static void status_tells_what_a_port_is(void **state)
{
	struct machine *m = *state;
	struct evtchn_status s = { .dom = DOMID_SELF };
	uint32_t port, peer;

	assert_int_equal(bind_virq(m, 7, 0, &port), 0);
	s.port = port;
	assert_int_equal(op(m, EVTCHNOP_status, &s, sizeof(s)), 0);
	assert_int_equal(s.status, EVTCHNSTAT_virq);
	assert_int_equal(s.u.virq, 7);
	assert_int_equal(alloc_unbound(m, DOMID_SELF, &port), 0);
	assert_int_equal(bind_local(m, port, &peer), 0);
	s.port = port;
	assert_int_equal(op(m, EVTCHNOP_status, &s, sizeof(s)), 0);
	assert_int_equal(s.status, EVTCHNSTAT_interdomain);
	assert_int_equal(s.u.interdomain.port, peer);
	s.port = EVTCHN_PORTS;
	assert_int_equal(op(m, EVTCHNOP_status, &s, sizeof(s)), -EINVAL);
	s.dom = 7;
	assert_int_equal(op(m, EVTCHNOP_status, &s, sizeof(s)), -ESRCH);
}

static void hostile_ports_are_refused(void **state)
{
	static const uint32_t ports[] = { EVTCHN_PORTS, EVTCHN_PORTS + 63, 0x80000000u, ~0u };
	static const uint64_t commands[] = { EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_unmask };
	struct machine *m = *state;
	uint32_t port;

	for (size_t p = 0; p < sizeof(ports) / sizeof(ports[0]); p++) {
		for (size_t c = 0; c < sizeof(commands) / sizeof(commands[0]); c++)
			assert_int_equal(port_op(m, commands[c], ports[p]), -EINVAL);
		assert_int_equal(bind_local(m, ports[p], &port), -EINVAL);
	}
	for (uint32_t reserved = 0; reserved < 3; reserved++) {
		assert_int_equal(port_op(m, EVTCHNOP_close, reserved), -EINVAL);
		assert_int_equal(bind_local(m, reserved, &port), -EINVAL);
	}
	assert_int_equal(alloc_unbound(m, 5, &port), -EPERM);
}

static void ports_run_out(void **state)
{
	struct machine *m = *state;
	uint32_t port, count = 0;

	while (!alloc_unbound(m, DOMID_SELF, &port))
		count++;
	assert_int_equal(count, EVTCHN_PORTS - 3);
	assert_int_equal(alloc_unbound(m, DOMID_SELF, &port), -ENOSPC);
	assert_int_equal(bind_virq(m, 0, 0, &port), -ENOSPC);
	assert_int_equal(port_op(m, EVTCHNOP_close, 500), 0);
	assert_int_equal(alloc_unbound(m, DOMID_SELF, &port), 0);
	assert_int_equal(port, 500);
}

static void unmapped_arguments_are_refused(void **state)
{
	struct machine *m = *state;

	for (uint64_t command = 0; command < 16; command++) {
		int64_t rc = evtchn_hypercall(m, command, FAKE_HOLE_VA);

		assert_true(rc == -EFAULT || rc == -ENOSYS);
	}
	assert_int_equal(evtchn_hypercall(m, ~0ull, 0), -ENOSYS);
	assert_int_equal(evtchn_hypercall(m, EVTCHNOP_init_control, 0), -ENOSYS);
}

static void vcpu_info_moves_with_its_content(void **state)
{
	struct machine *m = *state;

	vcpu_info_get(m)->arch.cr2 = 0x1234;
	assert_int_equal(vcpu_info_register(m, FAKE_SCRATCH >> PAGE_SHIFT, 64), 0);
	assert_int_equal(m->pv.vcpu_info_gpa, FAKE_SCRATCH + 64);
	assert_int_equal(vcpu_info_get(m)->arch.cr2, 0x1234);
	assert_true(vcpu_info_pending(m));
	assert_int_equal(fake_backend(m)->pv_changes, 1);
}

static void hostile_places_of_vcpu_info_are_refused(void **state)
{
	struct machine *m = *state;
	uint64_t frame = FAKE_SCRATCH >> PAGE_SHIFT, before = m->pv.vcpu_info_gpa;
	uint32_t last = (uint32_t)(PAGE_SIZE - sizeof(struct vcpu_info));

	assert_int_equal(vcpu_info_register(m, frame, last + 8), -EINVAL);
	assert_int_equal(vcpu_info_register(m, frame, ~0u), -EINVAL);
	assert_int_equal(vcpu_info_register(m, frame, 4), -EINVAL);
	assert_int_equal(vcpu_info_register(m, FAKE_RAM >> PAGE_SHIFT, 0), -EINVAL);
	assert_int_equal(vcpu_info_register(m, HV_GPA >> PAGE_SHIFT, 0), -EINVAL);
	assert_int_equal(vcpu_info_register(m, 1ull << 52, 0), -EINVAL);
	assert_int_equal(vcpu_info_register(m, ~0ull, 0), -EINVAL);
	assert_int_equal(m->pv.vcpu_info_gpa, before);
	assert_int_equal(vcpu_info_register(m, frame, last), 0);
}

/* ---- grants ---- */

static void grant_set(struct machine *m, uint32_t ref, uint16_t flags, domid_t dom, uint32_t frame)
{
	const struct grant_entry_v1 e = { .flags = flags, .domid = dom, .frame = frame };

	assert_int_equal(guest_write(&m->mem,
				     guest_pv_page_gpa(&m->mem, PV_PAGE_GRANT) + ref * sizeof(e), &e,
				     sizeof(e)),
			 0);
}

static int64_t grant_setup(struct machine *m, domid_t dom, uint32_t frames, uint64_t list)
{
	struct gnttab_setup_table s = { .dom = dom, .nr_frames = frames };
	int64_t rc;

	memcpy(&s.frame_list, &list, sizeof(list));
	rc = grant_hypercall(m, GNTTABOP_setup_table, fake_put(m, 0, &s, sizeof(s)), 1);
	fake_get(m, 0, &s, sizeof(s));
	return rc ? rc : s.status;
}

static void the_guest_finds_its_grant_frames(void **state)
{
	struct machine *m = *state;
	uint64_t list[2];

	assert_int_equal(grant_setup(m, DOMID_SELF, 2, FAKE_VA(FAKE_SCRATCH + 256)), GNTST_okay);
	fake_get(m, 256, list, sizeof(list));
	assert_int_equal(list[0] << PAGE_SHIFT, guest_pv_page_gpa(&m->mem, PV_PAGE_GRANT));
	assert_int_equal(list[1], list[0] + 1);
	assert_int_equal(m->pv.grant_frames, 2);
}

static void hostile_grant_setups_are_refused(void **state)
{
	struct machine *m = *state;

	assert_int_equal(grant_setup(m, DOMID_SELF, GRANT_FRAMES_MAX + 1, FAKE_VA(FAKE_SCRATCH)),
			 GNTST_general_error);
	assert_int_equal(grant_setup(m, DOMID_SELF, ~0u, FAKE_VA(FAKE_SCRATCH)),
			 GNTST_general_error);
	assert_int_equal(grant_setup(m, 0, 1, FAKE_VA(FAKE_SCRATCH)), GNTST_permission_denied);
	assert_int_equal(grant_setup(m, DOMID_SELF, 1, FAKE_HOLE_VA), -EFAULT);
	assert_int_equal(m->pv.grant_frames, 0);
	assert_int_equal(grant_hypercall(m, GNTTABOP_setup_table, FAKE_HOLE_VA, 1), -EFAULT);
	assert_int_equal(grant_hypercall(m, GNTTABOP_query_size, FAKE_HOLE_VA, 1), -EFAULT);
	assert_int_equal(grant_hypercall(m, GNTTABOP_get_version, FAKE_HOLE_VA, 1), -EFAULT);
	assert_int_equal(grant_hypercall(m, GNTTABOP_map_grant_ref, FAKE_VA(0), 1), -ENOSYS);
	assert_int_equal(grant_hypercall(m, GNTTABOP_setup_table, FAKE_VA(0), ~0ull), -ENOSYS);
}

static void a_granted_page_is_found(void **state)
{
	struct machine *m = *state;
	uint64_t gpa = 0;

	m->pv.grant_frames = 1;
	grant_set(m, 511, GTF_permit_access, 0, 0x345);
	assert_int_equal(grant_page(m, 511, &gpa), 0);
	assert_int_equal(gpa, 0x345000);
}

static void grants_that_do_not_say_so_are_refused(void **state)
{
	struct machine *m = *state;
	uint64_t gpa = 7;

	assert_int_equal(grant_page(m, 0, &gpa), -EINVAL); /* no frames yet */
	m->pv.grant_frames = 1;
	assert_int_equal(grant_page(m, 512, &gpa), -EINVAL);
	assert_int_equal(grant_page(m, ~0u, &gpa), -EINVAL);
	assert_int_equal(grant_page(m, 9, &gpa), -EACCES);
	grant_set(m, 9, GTF_permit_access | GTF_readonly, 0, 1);
	assert_int_equal(grant_page(m, 9, &gpa), -EACCES);
	grant_set(m, 9, GTF_permit_access, 3, 1);
	assert_int_equal(grant_page(m, 9, &gpa), -EACCES);
	grant_set(m, 9, GTF_accept_transfer, 0, 1);
	assert_int_equal(grant_page(m, 9, &gpa), -EACCES);
	grant_set(m, 9, GTF_permit_access, 0, FAKE_RAM >> PAGE_SHIFT);
	assert_int_equal(grant_page(m, 9, &gpa), -EINVAL);
	grant_set(m, 9, GTF_permit_access, 0, ~0u);
	assert_int_equal(grant_page(m, 9, &gpa), -EINVAL);
	assert_int_equal(gpa, 7);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_virq_reaches_the_guest),
		TEST(a_virq_is_bound_once),
		TEST(hostile_virqs_are_refused),
		TEST(ports_of_the_guest_reach_each_other),
		TEST(an_ipi_comes_back),
		TEST(status_tells_what_a_port_is),
		TEST(hostile_ports_are_refused),
		TEST(ports_run_out),
		TEST(unmapped_arguments_are_refused),
		TEST(vcpu_info_moves_with_its_content),
		TEST(hostile_places_of_vcpu_info_are_refused),
		TEST(the_guest_finds_its_grant_frames),
		TEST(hostile_grant_setups_are_refused),
		TEST(a_granted_page_is_found),
		TEST(grants_that_do_not_say_so_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
