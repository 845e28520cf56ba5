#pragma once
/*
 * Is there a cluster under us, which node of it are we, and what does the
 * kernel say of a lockspace?
 */
#include "engine.h"

/* Look for each piece that the DLM needs, from the ground up. FALSE and
 * @error: the first that is missing, and what to do about it, for a person. */
gboolean dlm_cluster_check(GError **error);
/* This node's id; 0: in no cluster. */
uint32_t dlm_cluster_node(void);
/* Does dlm_controld run? Asked of its socket, and never waits. */
gboolean dlm_cluster_is_controlled(void);
/* The recovery of a lockspace, by sysfs, which never waits either. */
EngineSpaceState dlm_cluster_space_state(const char *name);

/* The DLM_LSFL_* of a list of names with colons between (a comma ends the option); NULL: none. FALSE and
 * @error: one of them is unknown, or the running kernel does not have it. Our
 * own table decides: the kernel takes every bit. */
gboolean dlm_cluster_parse_flags(const char *names, uint32_t *ret_flags, GError **error);
