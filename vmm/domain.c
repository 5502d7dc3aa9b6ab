/* The domain builder: see domain.h. */
#include "vmm/domain.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/elf_loader.h"
#include "vmm/evtchn.h"
#include "vmm/mmu.h"
#include "vmm/timekeeping.h"
#include "vmm/xen_abi.h"

/* noreplace-smp and rodata=off save tens of thousands of page-table exits at
 * boot, cryptomgr.notests and init_on_alloc=0 a tenth of its time; the machine
 * has one processor; RDRAND is real; the initramfs may be larger than half of
 * RAM, which only ramfs allows; free pages may change what they hold
 * (reclaim.h), which init_on_free would not bear. Of the security modules only
 * the one that programs use for themselves is on: the others have no policy here,
 * and every copy of a guest pays for their code. The last line keeps an idle
 * guest asleep: nine wake-ups a second otherwise, for watchdogs of clocks and
 * processors, pressure averages, statistics and huge pages that a PV guest has
 * not. */
#define CMDLINE_BASE                                                                               \
	"console=hvc0 nr_cpus=1 noreplace-smp rodata=off random.trust_cpu=on quiet "               \
	"cryptomgr.notests init_on_alloc=0 init_on_free=0 panic=-1 rootfstype=ramfs "              \
	"tsc=reliable nowatchdog psi=0 lsm=landlock sysctl.vm.compaction_proactiveness=0 "         \
	"sysctl.vm.stat_interval=10"

/* Where user space can reach the kernel there is nothing for Linux to protect
 * from side channels; leaving that out is worth a tenth of a page fault. */
#define CMDLINE_FAST "mitigations=off "

#define INITRD_TOP        0xf0000000ull /* Linux wants it below 4 GiB */
#define INITRD_ALIGN      4u            /* initramfs archives start at 4-byte boundaries */
#define INITRD_LOW        0x100000ull   /* lowest place: the first MiB is the BIOS's to Linux */
#define BOOT_SLACK        0x80000ull    /* mapped room the ABI promises behind the last structure */
#define BOOT_MAPPED_ALIGN 0x400000ull
#define TABLE_ACCESS      (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED | PTE_DIRTY)

/* Guest-physical places of the start-of-day structures. */
struct layout {
	uint64_t p2m, start_info, store, console, tables, stack;
	uint64_t table_count, l1_count, mapped_end;
	uint64_t end; /* of all of these and the kernel */
	uint64_t initrd, initrd_size;
};

static uint64_t page_align(uint64_t value)
{
	return (value + PAGE_SIZE - 1) & PAGE_MASK;
}

static int layout_compute(const struct machine *m, const struct kernel_image *kernel,
			  struct layout *l, struct ramet_err *err)
{
	uint64_t at = page_align(kernel->end);

	l->p2m = at;
	at = page_align(at + guest_frames(&m->mem) * 8);
	l->start_info = at;
	l->store = l->start_info + PAGE_SIZE;
	l->console = l->store + PAGE_SIZE;
	l->tables = l->console + PAGE_SIZE;
	/* The tables must map themselves as well. */
	l->mapped_end = l->tables & ~(BOOT_MAPPED_ALIGN - 1);
	do {
		l->mapped_end += BOOT_MAPPED_ALIGN;
		l->l1_count = l->mapped_end >> 21;
		l->table_count = 3 + l->l1_count;
		l->stack = l->tables + l->table_count * PAGE_SIZE;
		l->end = l->stack + PAGE_SIZE + BOOT_SLACK;
	} while (l->end > l->mapped_end);
	if (l->l1_count > 512 || l->end > m->mem.ram_bytes)
		return err_set(
			err, ENOMEM,
			"the kernel and its tables need %llu MiB: give the sandbox more memory",
			(unsigned long long)((l->end + (1u << 20) - 1) >> 20));
	return 0;
}

static int initrd_size(const struct domain_config *config, uint64_t *total, struct ramet_err *err)
{
	*total = 0;
	for (unsigned int i = 0; i < config->initrd_count; i++) {
		struct stat st;

		if (fstat(config->initrd_fds[i], &st))
			return err_errno(err, errno, "initrd %u", i);
		if (!S_ISREG(st.st_mode))
			return err_set(err, EINVAL, "initrd %u is not a regular file", i);
		*total += ((uint64_t)st.st_size + INITRD_ALIGN - 1) & ~(uint64_t)(INITRD_ALIGN - 1);
	}
	return 0;
}

static int initrd_read(const struct machine *m, int fd, uint64_t *at, uint64_t end)
{
	off_t offset = 0;

	for (;;) {
		uint8_t *p = guest_ram_ptr(&m->mem, *at, end - *at);
		ssize_t n = p ? pread(fd, p, end - *at, offset) : 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		*at += (uint64_t)n;
		offset += n;
	}
	*at = (*at + INITRD_ALIGN - 1) & ~(uint64_t)(INITRD_ALIGN - 1);
	return 0;
}

/* As high as possible in [low, high). False when it does not fit. */
static bool initrd_place(struct layout *l, uint64_t low, uint64_t high)
{
	if (l->initrd_size > high)
		return false;
	l->initrd = (high - l->initrd_size) & PAGE_MASK;
	return l->initrd >= low;
}

static int initrd_load(struct machine *m, const struct domain_config *config,
		       const struct kernel_image *kernel, struct layout *l, struct ramet_err *err)
{
	uint64_t top = m->mem.ram_bytes < INITRD_TOP ? m->mem.ram_bytes : INITRD_TOP;
	uint64_t at;
	int rc = initrd_size(config, &l->initrd_size, err);

	if (rc || !l->initrd_size)
		return rc;
	/* Above the kernel and its tables; in small guests in the gap below. */
	if (!initrd_place(l, l->end, top) && !initrd_place(l, INITRD_LOW, kernel->start))
		return err_set(err, ENOMEM,
			       "an initrd of %llu MiB does not fit into %llu MiB of guest memory",
			       (unsigned long long)(l->initrd_size >> 20),
			       (unsigned long long)(m->mem.ram_bytes >> 20));
	at = l->initrd;
	for (unsigned int i = 0; i < config->initrd_count; i++) {
		rc = initrd_read(m, config->initrd_fds[i], &at, l->initrd + l->initrd_size);
		if (rc)
			return err_errno(err, -rc, "cannot read initrd %u", i);
	}
	return 0;
}

/* Four levels that map [virt_base, virt_base + mapped_end); the tables
 * themselves read-only, as a PV guest's must be. */
static void tables_build(struct machine *m, const struct kernel_image *kernel,
			 const struct layout *l)
{
	uint64_t *l4 = guest_ram_ptr(&m->mem, l->tables, l->table_count * PAGE_SIZE);
	uint64_t *l3 = l4 + 512, *l2 = l3 + 512, *l1 = l2 + 512;
	uint64_t tables_end = l->tables + l->table_count * PAGE_SIZE;

	memset(l4, 0, l->table_count * PAGE_SIZE);
	l4[(kernel->virt_base >> 39) & 511] = (l->tables + PAGE_SIZE) | TABLE_ACCESS;
	l3[(kernel->virt_base >> 30) & 511] = (l->tables + 2 * PAGE_SIZE) | TABLE_ACCESS;
	for (uint64_t i = 0; i < l->l1_count; i++)
		l2[i] = (l->tables + (3 + i) * PAGE_SIZE) | TABLE_ACCESS;
	for (uint64_t gpa = 0; gpa < l->mapped_end && gpa < m->mem.ram_bytes; gpa += PAGE_SIZE) {
		bool is_table = gpa >= l->tables && gpa < tables_end;

		l1[gpa >> PAGE_SHIFT] = gpa | (is_table ? TABLE_ACCESS & ~PTE_WRITE : TABLE_ACCESS);
	}
}

static int start_info_build(struct machine *m, const struct kernel_image *kernel,
			    const struct layout *l, const char *cmdline, struct ramet_err *err)
{
	struct start_info *si = guest_ram_ptr(&m->mem, l->start_info, sizeof(*si));
	uint64_t *p2m = guest_ram_ptr(&m->mem, l->p2m, guest_frames(&m->mem) * 8);
	int n;

	for (uint64_t i = 0; i < guest_frames(&m->mem); i++)
		p2m[i] = i;
	memcpy(si->magic, "xen-3.0-x86_64", sizeof("xen-3.0-x86_64"));
	si->nr_pages = guest_frames(&m->mem);
	si->shared_info = guest_pv_page_gpa(&m->mem, PV_PAGE_SHARED_INFO);
	si->flags = SIF_MOD_START_PFN;
	si->store_mfn = l->store >> PAGE_SHIFT;
	si->store_evtchn = 0; /* no store: Linux keeps its xenbus to itself */
	si->console.domU.mfn = l->console >> PAGE_SHIFT;
	si->console.domU.evtchn = m->pv.console_port;
	si->pt_base = kernel->virt_base + l->tables;
	si->nr_pt_frames = l->table_count;
	si->mfn_list = kernel->virt_base + l->p2m;
	si->first_p2m_pfn = l->p2m >> PAGE_SHIFT;
	si->nr_p2m_frames = page_align(guest_frames(&m->mem) * 8) >> PAGE_SHIFT;
	if (l->initrd_size) {
		si->mod_start = l->initrd >> PAGE_SHIFT;
		si->mod_len = l->initrd_size;
	}
	n = snprintf((char *)si->cmd_line, sizeof(si->cmd_line), "%s %s%s", CMDLINE_BASE,
		     m->isolation == ISOLATION_FAST ? CMDLINE_FAST : "", cmdline);
	if (n >= (int)sizeof(si->cmd_line))
		return err_set(err, E2BIG, "the kernel command line is longer than %zu bytes",
			       sizeof(si->cmd_line) - 1);
	return 0;
}

int domain_build(struct machine *m, const struct domain_config *config, struct ramet_err *err)
{
	struct kernel_image kernel;
	struct layout l = { 0 };
	int rc;

	rc = kernel_load(&m->mem, config->kernel_fd, &kernel, err);
	if (!rc)
		rc = layout_compute(m, &kernel, &l, err);
	if (!rc)
		rc = initrd_load(m, config, &kernel, &l, err);
	if (rc)
		return rc;
	evtchn_init(m);
	m->pv.console_gpa = l.console;
	rc = start_info_build(m, &kernel, &l, config->cmdline, err);
	if (rc)
		return rc;
	tables_build(m, &kernel, &l);
	time_start(m, 0);
	time_publish(m);
	m->vcpu = (struct vcpu){ .cs = SEL_USER_CS,
				 .kernel_mode = true,
				 .kernel_cr3 = l.tables,
				 .regs = { .rip = kernel.entry,
					   .rsp = kernel.virt_base + l.stack + PAGE_SIZE,
					   .rsi = kernel.virt_base + l.start_info,
					   .rflags = 0x202 } };
	rc = mmu_load_root(m, l.tables, false);
	mmu_pending_clear(m); /* nothing has run yet: nothing can be stale */
	return rc;
}
