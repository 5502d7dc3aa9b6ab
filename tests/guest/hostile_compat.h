/* The part of hostile_entry about compatibility mode and MOV SS. */
#ifndef RAMET_TESTS_GUEST_HOSTILE_COMPAT_H
#define RAMET_TESTS_GUEST_HOSTILE_COMPAT_H

#include "hostile.h"

void compat_try(struct check *c, struct sanity *s, bool verbose);

#endif
