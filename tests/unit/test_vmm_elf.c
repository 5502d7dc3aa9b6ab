/* The kernel loader against files that are no kernels, or pretend to be. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <xen/elfnote.h>

#include "lib/cleanup.h"
#include "vmm/elf_loader.h"

#define RAM (64ull << 20)
#define TEXT_AT 0x1000u
#define NOTES_AT 0x2000u
#define FILE_BYTES 0x3000u
#define LOAD_GPA 0x1000000ull
#define ENTRY 0xffffffff81000000ull
#define VIRT_BASE 0xffffffff80000000ull

/* A small kernel that is right. */
struct image {
	uint8_t bytes[FILE_BYTES];
	Elf64_Ehdr *eh;
	Elf64_Phdr *ph; /* 0: load, 1: notes */
	size_t size;
};

static size_t note_put(uint8_t *at, uint32_t type, uint64_t value)
{
	const Elf64_Nhdr h = { .n_namesz = 4, .n_descsz = 8, .n_type = type };

	memcpy(at, &h, sizeof(h));
	memcpy(at + sizeof(h), "Xen", 4);
	memcpy(at + sizeof(h) + 4, &value, sizeof(value));
	return sizeof(h) + 4 + sizeof(value);
}

static void image_init(struct image *i)
{
	size_t notes;

	memset(i, 0, sizeof(*i));
	i->size = sizeof(i->bytes);
	i->eh = (Elf64_Ehdr *)(void *)i->bytes;
	i->ph = (Elf64_Phdr *)(void *)(i->bytes + sizeof(*i->eh));
	*i->eh = (Elf64_Ehdr){ .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			       .e_type = ET_EXEC,
			       .e_machine = EM_X86_64,
			       .e_version = EV_CURRENT,
			       .e_phoff = sizeof(*i->eh),
			       .e_ehsize = sizeof(*i->eh),
			       .e_phentsize = sizeof(*i->ph),
			       .e_phnum = 2 };
	notes = note_put(i->bytes + NOTES_AT, XEN_ELFNOTE_ENTRY, ENTRY);
	notes += note_put(i->bytes + NOTES_AT + notes, XEN_ELFNOTE_VIRT_BASE, VIRT_BASE);
	i->ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				 .p_offset = TEXT_AT,
				 .p_paddr = LOAD_GPA,
				 .p_filesz = 0x100,
				 .p_memsz = 0x2000 };
	i->ph[1] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = NOTES_AT, .p_filesz = notes };
	memset(i->bytes + TEXT_AT, 0x90, 0x100);
}

static int load_bytes(const void *data, size_t len, struct kernel_image *k, struct ramet_err *err,
		      struct guest_memory *mem)
{
	cleanup_close int fd = memfd_create("kernel", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	return kernel_load(mem, fd, k, err);
}

/* Loads and, for a failure, checks the promise about errors. */
static int load(const struct image *i, struct ramet_err *err)
{
	const struct kernel_image mark = { 1, 2, 3, 4 };
	struct kernel_image k = mark;
	struct guest_memory mem;
	int rc;

	memset(err, 0, sizeof(*err));
	assert_int_equal(guest_memory_create(&mem, RAM, err), 0);
	rc = load_bytes(i->bytes, i->size, &k, err, &mem);
	if (rc) {
		assert_int_equal(err->code, -rc);
		assert_true(strlen(err->msg) > 10);
		assert_memory_equal(&k, &mark, sizeof(k));
	} else {
		assert_int_equal(k.entry, ENTRY);
	}
	guest_memory_destroy(&mem);
	return rc;
}

static void refuse(const struct image *i, const char *what)
{
	struct ramet_err err;

	assert_int_equal(load(i, &err), -ENOEXEC);
	if (!strstr(err.msg, what))
		fail_msg("'%s' is not in '%s'", what, err.msg);
}

static void a_kernel_is_loaded(void **unused)
{
	struct kernel_image k = { 0 };
	struct guest_memory mem;
	struct ramet_err err;
	struct image i;
	uint8_t text[0x101];

	(void)unused;
	image_init(&i);
	assert_int_equal(guest_memory_create(&mem, RAM, &err), 0);
	assert_int_equal(load_bytes(i.bytes, i.size, &k, &err, &mem), 0);
	assert_int_equal(k.entry, ENTRY);
	assert_int_equal(k.virt_base, VIRT_BASE);
	assert_int_equal(k.start, LOAD_GPA);
	assert_int_equal(k.end, LOAD_GPA + 0x2000);
	assert_int_equal(guest_read(&mem, LOAD_GPA, text, sizeof(text)), 0);
	assert_memory_equal(text, i.bytes + TEXT_AT, 0x100);
	assert_int_equal(text[0x100], 0);
	guest_memory_destroy(&mem);
}

static void other_files_are_refused(void **unused)
{
	static const char *const texts[] = { "", "\x7f", "\x7f" "ELF", "#!/bin/sh\n", "garbage" };
	struct kernel_image k;
	struct guest_memory mem;
	struct ramet_err err;

	(void)unused;
	assert_int_equal(guest_memory_create(&mem, RAM, &err), 0);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_int_equal(load_bytes(texts[i], strlen(texts[i]), &k, &err, &mem), -ENOEXEC);
	guest_memory_destroy(&mem);
}

static void other_headers_are_refused(void **unused)
{
	struct image i;

	(void)unused;
	image_init(&i), i.eh->e_ident[EI_CLASS] = ELFCLASS32, refuse(&i, "vmlinux");
	image_init(&i), i.eh->e_machine = EM_386, refuse(&i, "vmlinux");
	image_init(&i), i.eh->e_type = ET_DYN, refuse(&i, "vmlinux");
	image_init(&i), i.eh->e_phnum = 0, refuse(&i, "program headers");
	image_init(&i), i.eh->e_phnum = 65535, refuse(&i, "program headers");
	image_init(&i), i.eh->e_phentsize = 55, refuse(&i, "program headers");
	image_init(&i), i.eh->e_phoff = FILE_BYTES - 1, refuse(&i, "program headers");
	image_init(&i), i.eh->e_phoff = 1ull << 62, refuse(&i, "program headers");
}

static void an_absurd_offset_is_an_error(void **unused)
{
	struct ramet_err err;
	struct image i;

	(void)unused;
	/* Negative as an off_t: pread(2) says EINVAL. */
	image_init(&i), i.eh->e_phoff = ~0ull, assert_true(load(&i, &err) < 0);
	image_init(&i), i.ph[0].p_offset = ~0ull, assert_true(load(&i, &err) < 0);
	image_init(&i), i.ph[1].p_offset = 1ull << 63, assert_true(load(&i, &err) < 0);
}

static void segments_outside_of_memory_are_refused(void **unused)
{
	struct image i;

	(void)unused;
	image_init(&i), i.ph[0].p_paddr = RAM, refuse(&i, "does not fit");
	image_init(&i), i.ph[0].p_paddr = RAM - 0x1fff, refuse(&i, "does not fit");
	image_init(&i), i.ph[0].p_paddr = ~0ull - 0xfff, refuse(&i, "does not fit");
	image_init(&i), i.ph[0].p_memsz = ~0ull, refuse(&i, "does not fit");
	image_init(&i), i.ph[0].p_memsz = RAM, refuse(&i, "does not fit");
	image_init(&i), i.ph[0].p_filesz = 0x2001, refuse(&i, "does not fit");
}

static void a_cut_file_is_refused(void **unused)
{
	struct image i;

	(void)unused;
	image_init(&i), i.ph[0].p_offset = FILE_BYTES - 0xff, refuse(&i, "segment");
	image_init(&i), i.size = TEXT_AT + 0xff, refuse(&i, "segment");
	image_init(&i), i.ph[1].p_offset = FILE_BYTES, refuse(&i, "notes");
	for (size_t size = 1; size < NOTES_AT + 20; size += 13)
		image_init(&i), i.size = size, refuse(&i, "");
}

static void a_kernel_without_pv_entry_is_refused(void **unused)
{
	struct image i;

	(void)unused;
	image_init(&i), i.ph[1].p_type = PT_NULL, refuse(&i, "CONFIG_XEN_PV");
	image_init(&i), i.ph[0].p_type = PT_NULL, refuse(&i, "CONFIG_XEN_PV");
	image_init(&i), memcpy(i.bytes + NOTES_AT + 12, "GNU", 4), refuse(&i, "CONFIG_XEN_PV");
	image_init(&i), i.ph[1].p_filesz = 0, refuse(&i, "CONFIG_XEN_PV");
}

static void impossible_addresses_are_refused(void **unused)
{
	struct image i;

	(void)unused;
	image_init(&i), note_put(i.bytes + NOTES_AT, XEN_ELFNOTE_ENTRY, VIRT_BASE - 1);
	refuse(&i, "entry");
	image_init(&i), note_put(i.bytes + NOTES_AT, XEN_ELFNOTE_ENTRY, VIRT_BASE + RAM);
	refuse(&i, "entry");
	image_init(&i), note_put(i.bytes + NOTES_AT + 24, XEN_ELFNOTE_VIRT_BASE, VIRT_BASE + 0x1000);
	refuse(&i, "base address");
}

static void hostile_notes_are_read_within_bounds(void **unused)
{
	static const uint32_t values[] = { 0, 1, 3, 5, 0x7fffffff, 0xfffffffc, 0xffffffff };
	struct ramet_err err;
	struct image i;

	(void)unused;
	for (size_t n = 0; n < sizeof(values) / sizeof(values[0]); n++) {
		image_init(&i);
		memcpy(i.bytes + NOTES_AT, &values[n], 4);
		(void)load(&i, &err);
		image_init(&i);
		memcpy(i.bytes + NOTES_AT + 4, &values[n], 4);
		(void)load(&i, &err);
		image_init(&i);
		i.ph[1].p_filesz = values[n];
		(void)load(&i, &err);
	}
}

static void random_headers_never_crash(void **unused)
{
	uint64_t seed = 7;
	struct ramet_err err;
	struct kernel_image k;
	struct guest_memory mem;
	struct image i;

	(void)unused;
	assert_int_equal(guest_memory_create(&mem, RAM, &err), 0);
	for (unsigned int round = 0; round < 3000; round++) {
		image_init(&i);
		for (unsigned int n = 0; n < 3; n++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			/* Headers and notes, not the identification. */
			size_t at = 16 + (seed >> 33) % (64 + 112 - 16);

			if (n == 2)
				at = NOTES_AT + (seed >> 33) % 48;
			i.bytes[at] = (uint8_t)(seed >> 56);
		}
		(void)load_bytes(i.bytes, i.size, &k, &err, &mem);
	}
	guest_memory_destroy(&mem);
}

static void a_bad_descriptor_is_an_error(void **unused)
{
	struct kernel_image k;
	struct guest_memory mem;
	struct ramet_err err = { 0 };

	(void)unused;
	assert_int_equal(guest_memory_create(&mem, RAM, &err), 0);
	assert_int_equal(kernel_load(&mem, -1, &k, &err), -EBADF);
	assert_true(strlen(err.msg) > 10);
	guest_memory_destroy(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kernel_is_loaded),
		cmocka_unit_test(other_files_are_refused),
		cmocka_unit_test(other_headers_are_refused),
		cmocka_unit_test(an_absurd_offset_is_an_error),
		cmocka_unit_test(segments_outside_of_memory_are_refused),
		cmocka_unit_test(a_cut_file_is_refused),
		cmocka_unit_test(a_kernel_without_pv_entry_is_refused),
		cmocka_unit_test(impossible_addresses_are_refused),
		cmocka_unit_test(hostile_notes_are_read_within_bounds),
		cmocka_unit_test(random_headers_never_crash),
		cmocka_unit_test(a_bad_descriptor_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
